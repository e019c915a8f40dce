"""Putting weights into the store: one deterministic safetensors file a content, `ab/<id>.safetensors`, whole before it has its name."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from weightspace import naming
from weightspace.checkpoint import Checkpoint
from weightspace.errors import DAMAGE, CatalogError, FormatError, WeightSpaceError, guarded
from weightspace.formats import open_checkpoint
from weightspace.formats.compact import Find, opened
from weightspace.formats.safetensors import save
from weightspace.remote.file import RemoteFile
from weightspace.remote.opening import of_files
from weightspace.storage import RangedFile, SourceFile
from weightspace.zoo.reading import Read
from weightspace.zoo.records import Description, ModelRecord, Place
from weightspace.zoo.store.aside import set_aside
from weightspace.zoo.store.roots import COMPACT, PLAIN, Held, LocalRoot, Root, find, key_of, root_of

Wanted = tuple[Checkpoint, Read, str, Description, Mapping[str, Any] | None]
"""What `kept` is told of a checkpoint."""

_WRITERS = 16  # threads; each waits most of its time until the disk has a small file
STAMP = 0  # files of the store never change: their name is the identity of what is in them


def find_in(root: Root) -> Find:
    """How a compact file of this store finds what it needs."""

    def found(model: str) -> RangedFile | None:
        held = find(root, model)
        return None if held is None else held.file

    return found


def open_stored(home: Path, model: str) -> Checkpoint | None:
    """Open the weights with this id (hex) in the store of a zoo, plain or compact; None where it does not have them.

    Raises:
        FormatError: they are damaged, or compact and lack what they are based on.
    """
    root = root_of(home)
    # Compacting puts the one form there before it takes the other away, and looking for both takes time: so twice.
    held = find(root, model) or find(root, model)
    return None if held is None else open_held(root, held)


def open_held(root: Root, held: Held) -> Checkpoint:
    """Open a file of a store."""
    path = held.file.path if isinstance(held.file, SourceFile) else None
    if held.key.endswith(COMPACT):
        where = Path(held.file.path)
        return naming.recognised(guarded(lambda _: opened(held.file, find_in(root), path), where))
    if isinstance(held.file, RemoteFile):
        return of_files(held.file.address, [held.file])
    return open_checkpoint(Path(held.file.path))


def holds(root: Root, held: Held, model: str) -> bool:
    """Whether a file of a store, read to its end, holds the weights with this id (hex)."""
    try:
        return open_held(root, held).id == model
    except (FormatError, *DAMAGE):
        return False


def is_as_named(home: Path, checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint of a store in a zoo's own folder holds what its file's name says, read to its end; True for any other."""
    path, folder = checkpoint.path, home / "store"
    if path is None or not path.resolve().is_relative_to(folder.resolve()):
        return True
    stem = path.name.partition(".")[0]
    return len(stem) != len(checkpoint.id) or checkpoint.id == stem


def put(home: Path, checkpoint: Checkpoint, model: str) -> Place:
    """Write the weights with this id into the store, unless they are there already; returns where they lie.

    Raises:
        FormatError: a dtype that safetensors cannot hold, or a source that is not what it was when its id was taken.
        CatalogError: the store cannot be written, or the disk is full.
    """
    root = root_of(home)
    held = find(root, model)
    if held is not None and root.renew(held.key):
        with contextlib.suppress(FormatError):  # what cannot be opened is written anew
            open_held(root, held)
            return described(root, held)
    source = checkpoint.path or "the weights"
    changed = FormatError(f"{source}: changed while being copied", reason="unreadable", advice="ingest it again when it is finished")
    put_fresh(root, key_of(model), model, lambda path: save(checkpoint, path), changed)
    return placed(root, model)


def put_anew(home: Path, checkpoint: Checkpoint, model: str) -> Place:
    """Do what `put` does, also where what lies there is not what its name says: that is kept aside, and back where it was if this fails.

    Raises:
        FormatError, CatalogError: see `put`.
    """
    root = root_of(home)
    aside: dict[Path, Path] = {}
    if isinstance(root, LocalRoot):
        held = find(root, model)
        if held is None or not holds(root, held, model):
            paths = [root.folder / key_of(model, suffix) for suffix in (PLAIN, COMPACT)]
            aside = {path: set_aside(home, path) for path in paths if path.is_file()}
    try:
        return put(home, checkpoint, model)
    except WeightSpaceError:
        for path, kept in aside.items():
            if not path.exists():
                kept.replace(path)
        raise


def put_fresh(
    root: Root,
    key: str,
    model: str,
    write: Callable[[Path], object],
    otherwise: FormatError,
    identify: Callable[[Checkpoint], str] = lambda one: one.id,
) -> None:
    """Write a file and bring it under its key, once it is whole and opens as what the key says.

    Args:
        root: the store.
        key: of the file.
        model: id (hex) of its weights.
        write: writes it under the path that it is given, and sees that it is on the disk.
        otherwise: what is raised where what was written is not what the key says.
        identify: computes the id of what was written.

    Raises:
        FormatError, CatalogError: see `put`.
    """
    fresh: Path | None = None
    try:
        with _writable(root.address(key)):
            fresh = root.fresh(key)
            write(fresh)
            # Under its final name lies what the name says, also when the source was being written meanwhile.
            if identify(open_held(root, Held(key, SourceFile.at(fresh)))) != model:
                raise otherwise
            root.put(fresh, key)
    finally:
        if fresh is not None:
            with contextlib.suppress(OSError):
                fresh.unlink()


@contextlib.contextmanager
def _writable(address: str) -> Iterator[None]:
    """Tell trouble of the store, which every further file would meet, from trouble of what is put there."""
    try:
        yield
    except (OSError, FormatError) as error:
        cause = error.__context__ if isinstance(error, FormatError) else error
        if not isinstance(cause, OSError):
            raise
        raise CatalogError(
            f"{address}: cannot be written ({cause.strerror}); check the folder, its permissions and the free space"
        ) from None


def placed(root: Root, model: str) -> Place:
    """Describe the weights with this id, which are in the store."""
    held = find(root, model)
    if held is None:
        raise CatalogError(f"{root.address(key_of(model))}: is gone again; see whether another process removes files of the store")
    return described(root, held)


def described(root: Root, held: Held) -> Place:
    """Describe a file of the store."""
    moment = datetime.fromtimestamp(held.file.stamp[1] / 1e9, UTC) if isinstance(held.file, SourceFile) else datetime.now(UTC)
    format = "compact" if held.key.endswith(COMPACT) else "safetensors"
    return Place(root.address(held.key), format, 1, held.file.size, moment.replace(tzinfo=None), stamp=STAMP)


def stored(home: Path, model: str) -> Place | None:
    """Where the weights with this id lie in the store; None where it does not have them."""
    root = root_of(home)
    held = find(root, model)
    return None if held is None else described(root, held)


def copied(home: Path, checkpoint: Checkpoint, record: ModelRecord) -> ModelRecord:
    """Copy a checkpoint into the store and describe the copy as a further file of the same model."""
    return replace(record, place=put(home, checkpoint, record.id.hex()), description=Description(tags=record.description.tags))


def kept(
    home: Path, checkpoint: Checkpoint, read: Read, name: str, description: Description, recipe: Mapping[str, Any] | None = None
) -> ModelRecord:
    """Put a checkpoint that was read and measured into the store, and describe it there.

    Args:
        home: the zoo's `.weightspace`.
        checkpoint: whose weights are written.
        read: what was measured of it.
        name: in the catalog.
        description: what else is known.
        recipe: in place of the checkpoint's own.

    Raises:
        FormatError, CatalogError: see `put`.
    """
    return ModelRecord(
        place=put(home, checkpoint, read.id.hex()),
        name=name,
        id=read.id,
        weights_id=read.weights_id,
        fingerprint=read.fingerprint,
        kind=read.kind,
        num_params=read.num_params,
        num_bytes=read.num_bytes,
        tensors=read.rows,
        description=description,
        recipe=recipe if recipe is not None else checkpoint.recipe,
    )


def kept_many(home: Path, wanted: Sequence[Wanted]) -> list[ModelRecord]:
    """Do what `kept` does for many checkpoints, in order; the disk takes files that are synced side by side together.

    Each file is whole and on the disk before it has its name, so that nothing is catalogued that may be lost.

    Raises:
        FormatError, CatalogError: see `put`.
    """
    root_of(home)  # asked here, since a thread that waits for the catalog's lock may be waited for
    with ThreadPoolExecutor(_WRITERS) as writers:
        return list(writers.map(lambda one: kept(home, *one), wanted))
