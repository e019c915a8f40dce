"""Finding checkpoints in a tree: which files and folders are one checkpoint each, and which are passed over."""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from weightspace.errors import DAMAGE, FormatError
from weightspace.formats import formats, sniff

SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages.dist-info"})
_WEIGHT_SUFFIXES = frozenset({".safetensors", ".pt", ".pth", ".ckpt", ".th", ".onnx", ".h5", ".hdf5", ".keras", ".gguf", ".npz", ".distcp"})
_WEIGHT_NAMES = re.compile(r"(pytorch_model|adapter_model|model)([-_.].*)?\.(bin|tar)$")
# What a training leaves beside a model, and what a merge keeps of its parents.
_BESIDE = re.compile(r"(rng_state.*|scheduler|scaler|training_args|random_states.*)\.(pt|pth|bin|pkl)$|.*\.difference$")
_GENERIC_STEMS = frozenset(
    {"model", "pytorch_model", "adapter_model", "adapter", "weights", "checkpoint", "checkpoints", "state_dict", "consolidated", "data"}
)
_LEADING = re.compile(r"\.index\.json$|-0{4,}1-of-\d{5}\.\w+$")
_SHARDED_STEM = re.compile(r"-\d{5}-of-\d{5}$|\.index$")


@dataclass(frozen=True)
class Found:
    """A checkpoint that was found, not yet read.

    Attributes:
        path: file, or folder for formats of several files.
        root: the folder that the user named, or that of the file: where the model's name begins.
        format: name of the format, for those of several files; None for a single file, into which nobody has looked yet.
        files: all files whose bytes belong to it.
        size: their bytes.
        modified: latest modification time, nanoseconds since 1970.
        stamp: fingerprint of names, sizes and times.
    """

    path: Path
    root: Path
    format: str | None
    files: tuple[Path, ...]
    size: int
    modified: int
    stamp: int

    @property
    def name(self) -> str:
        """A readable name: the path below the root without its suffix; the folder's name for files called like `model.safetensors`."""
        hub = _hub_name(self.path)
        if hub:
            return hub
        above, _, last = below(self.path, self.root).rpartition("/")
        if self.path in self.files:
            last = _SHARDED_STEM.sub("", Path(last).stem.removesuffix(".pth").removesuffix(".weights"))
            if last in _GENERIC_STEMS:
                return above or self.path.parent.name
        return f"{above}/{last}" if above else last


def discover(roots: Sequence[str | Path], *, base: Path | None = None) -> Iterator[Found]:
    """Walk files and folders in sorted order and yield everything that may be a checkpoint, once.

    Only formats of several files are recognised here, so that their shards are not taken for models; a single file is
    yielded without a look inside.

    Hidden folders are passed over, as are folders behind links. A linked file is taken when it leads to a place inside
    the root or into the blobs of the Hugging Face cache that it stands in.

    Args:
        roots: files and folders.
        base: folder below which names begin and runs are looked for, where the roots are files somewhere in it; else each root itself.

    Raises:
        FormatError: a root does not exist.
    """
    seen: set[Path] = set()
    for given in roots:
        root = Path(os.path.abspath(given))  # noqa: PTH100 - not resolve(): links stay as the user named them
        if not root.exists():
            raise FormatError(f"{root}: does not exist", reason="unreadable", advice="check the path")
        is_folder = root.is_dir()
        places = _walk(root) if is_folder else iter([(root.parent, [root])])
        for folder, files in places:
            for found in _in_folder(folder, files, base or (root if is_folder else root.parent), whole=is_folder):
                if found.path not in seen:
                    seen.add(found.path)
                    yield found


def _walk(root: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Yield each folder with its files, sorted, without following links to folders."""
    pending = [root]
    while pending:
        folder = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        # A hub cache keeps the bytes in blobs/ and names them in snapshots/: reading both would count all twice.
        is_hub_repository = any(entry.name == "snapshots" for entry in entries)
        files = [Path(entry.path) for entry in entries if _is_file(entry) and _stays_inside(entry, root)]
        folders = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        yield folder, files
        pending += [
            one
            for one in reversed(folders)
            if not one.name.startswith(".")
            and one.name not in SKIPPED_FOLDERS
            and not (is_hub_repository and one.name in ("blobs", "refs"))
        ]


def _is_file(entry: "os.DirEntry[str]") -> bool:
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def _stays_inside(entry: "os.DirEntry[str]", root: Path) -> bool:
    if not entry.is_symlink():
        return True
    target, place = Path(entry.path).resolve(), Path(entry.path)
    if target.is_relative_to(root.resolve()):
        return True
    for parent in place.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return target.is_relative_to((parent.parent / "blobs").resolve())
    return False


def _in_folder(folder: Path, files: list[Path], root: Path, *, whole: bool) -> Iterator[Found]:
    """Yield the checkpoints of one folder: first those of several files, which claim theirs, then the single files."""
    claimed: set[Path] = set()
    for several in formats.values():
        if several.claims is None or not whole:
            continue
        try:
            own = several.claims(folder) if several.sniff(folder, b"") else frozenset()
        except DAMAGE:  # the folder changes, or cannot be read: its files are looked at one by one
            continue
        if own and not own & claimed:
            claimed |= own
            found = _found(folder, root, several.name, sorted(own))
            if found:
                yield found
    # Those that name further files go first, and claim them.
    for path in sorted(files, key=lambda one: _LEADING.search(one.name) is None):
        if path in claimed or _BESIDE.fullmatch(path.name):
            continue
        found = (_leading(path, root) if _LEADING.search(path.name) else None) or _found(path, root, None, [path])
        if found:
            claimed.update(found.files)
            yield found


def _leading(path: Path, root: Path) -> Found | None:
    """The checkpoint that a shard index or a first shard stands for, with the files that it claims."""
    try:
        fit = sniff(path)
        claimed = fit.claims(path) if fit and fit.claims else frozenset()
    except DAMAGE:
        return None  # the worker that opens it says what is wrong
    return _found(path, root, fit.name, sorted(claimed | {path})) if fit and claimed else None


def _found(path: Path, root: Path, format: str | None, files: Sequence[Path]) -> Found | None:
    size, modified, hasher = 0, 0, blake3()
    for one in files:
        try:
            status = one.stat()
        except OSError:
            # A missing shard is the reader's to report; here it only changes the stamp.
            hasher.update(f"{one.name}\0missing\n".encode("utf-8", "surrogateescape"))
            continue
        size += status.st_size
        modified = max(modified, status.st_mtime_ns)
        hasher.update(f"{one.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return Found(path, root, format, tuple(files), size, modified, int.from_bytes(hasher.digest(8), "little"))


def stamp_at(path: Path) -> int | None:
    """Fingerprint of the checkpoint at a path as it lies there now; None where there is none."""
    if not path.exists():
        return None
    return next((found.stamp for found in discover([path]) if found.path == path), None)


def is_named_like_weights(path: Path) -> bool:
    """Whether a file's name promises weights, so that content of no known format is worth a complaint."""
    return path.suffix.lower() in _WEIGHT_SUFFIXES or _WEIGHT_NAMES.match(path.name) is not None


def below(path: Path, root: Path) -> str:
    """The path from a folder down, with slashes; the name of the folder for itself. Asked of every file, so done on the text."""
    text, prefix = str(path), str(root).rstrip(os.sep) + os.sep
    if path == root:
        return path.name
    return (text[len(prefix) :] if text.startswith(prefix) else text).replace(os.sep, "/")


def hub_revision(path: Path) -> str | None:
    """Read the revision out of a path in the Hugging Face cache, `models--org--name/snapshots/<revision>/...`."""
    snapshot = _snapshot(path)
    return snapshot.name if snapshot else None


def _snapshot(path: Path) -> Path | None:
    # Asked of every file, so told from the text first.
    if f"{os.sep}snapshots{os.sep}" not in str(path):
        return None
    return next((p for p in path.parents if p.parent.name == "snapshots" and p.parent.parent.name.startswith("models--")), None)


def _hub_name(path: Path) -> str | None:
    snapshot = _snapshot(path)
    if snapshot is None:
        return None
    name = snapshot.parent.parent.name.removeprefix("models--").replace("--", "/")
    rest = path.relative_to(snapshot).with_suffix("")
    return name if rest.name in _GENERIC_STEMS or _SHARDED_STEM.search(rest.name) else f"{name}/{rest}"
