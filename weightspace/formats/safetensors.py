"""safetensors: a JSON header and flat little-endian tensors; read lazily, written so that the same weights give the same bytes."""

import contextlib
import json
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from weightspace import dtypes
from weightspace.checkpoint import Checkpoint, TensorInfo, checkpoint_of, tied
from weightspace.errors import FormatError, one_line
from weightspace.formats import checkpoint_format
from weightspace.provenance import told
from weightspace.storage import FileSpan, RangedFile, SourceFile, Storage

if TYPE_CHECKING:
    import torch

MAX_HEADER = 100_000_000  # the safetensors library's own limit
MAX_DEPTH = 64  # of JSON: what is nested deeper than a few hundred cannot cross a process border
ALIGNMENT = 8


def sniff(path: Path, head: bytes) -> bool:
    """A plausible header length, then the opening brace of a JSON object."""
    return len(head) >= 9 and head[8:9] in b"{ \t\n" and 2 <= int.from_bytes(head[:8], "little") <= 1 << 40


@checkpoint_format("safetensors", sniff=sniff)
def open_safetensors(path: Path) -> Checkpoint:
    """Read the header of one safetensors file and check every claim it makes against the file's size."""
    file = SourceFile.at(path)
    info, spans, metadata = read_header(file)
    info = tied(info, {name: owner for name, owner in metadata.items() if name not in info and owner in info})
    storages: dict[str, Storage] = {name: spans[one.alias_of or name] for name, one in info.items()}
    recipe, parents = told(metadata)
    kind = "signature" if recipe is not None and recipe.get("kind") == "signature" else "full"
    return Checkpoint(info, storages, "safetensors", path, (path,), metadata, kind, recipe=recipe, parents=parents)


def read_header(file: RangedFile) -> tuple[dict[str, TensorInfo], dict[str, FileSpan], dict[str, str]]:
    """Parse a header: tensors in file order, where their bytes lie, and the metadata.

    Raises:
        FormatError: absurd length, invalid JSON, a key that stands twice, unknown dtypes, ranges that overlap, leave
            holes or reach beyond the file.
    """
    length = int.from_bytes(file.read(0, 8), "little")
    if length > min(MAX_HEADER, file.size - 8):
        reason = "hostile" if length > MAX_HEADER else "truncated"
        raise FormatError(
            f"{file.path}: claims a header of {length} bytes in a file of {file.size}", reason=reason, advice="copy or download it again"
        )
    header = parse_json(file.read(8, length), file.path)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FormatError(f"{file.path}: metadata must map strings to strings", advice="save it again")
    start = 8 + length
    info: dict[str, TensorInfo] = {}
    spans: dict[str, FileSpan] = {}
    for name, begin, end, one in sorted((_entry(name, entry, file.path) for name, entry in header.items()), key=lambda e: (e[1], e[2])):
        info[name] = one
        if end - begin != one.nbytes:
            raise FormatError(
                f"{file.path}: tensor '{one_line(name, 80)}' of dtype {one.dtype} and shape {list(one.shape)} needs {one.nbytes} bytes, its header gives {end - begin}",
                advice="save it again",
            )
        spans[name] = FileSpan(file, start + begin, end - begin)
    _check_cover(spans.values(), start, file)
    return info, spans, metadata


def _entry(name: str, entry: Any, path: PurePath) -> tuple[str, int, int, TensorInfo]:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
    except (KeyError, TypeError, ValueError):
        raise FormatError(f"{path}: tensor '{one_line(name, 80)}' lacks dtype, shape or data_offsets", advice="save it again") from None
    if not isinstance(dtype, str) or dtype not in dtypes.DTYPES or dtypes.DTYPES[dtype].block is not None:
        raise FormatError(
            f"{path}: tensor '{one_line(name, 80)}' has the unknown dtype '{one_line(str(dtype), 40)}'",
            reason="unsupported",
            advice="update weightspace",
        )
    if set(map(type, numbers)) != {int} or min(numbers) < 0 or max(numbers) >= 1 << 63 or len(shape) > 64 or begin > end:
        raise FormatError(
            f"{path}: tensor '{one_line(name, 80)}' has shape {one_line(str(shape), 80)} at bytes {one_line(str((begin, end)), 80)}",
            reason="hostile",
            advice="do not load this file",
        )
    return name, begin, end, TensorInfo(name, dtype, tuple(shape))


def _check_cover(spans: Iterable[FileSpan], start: int, file: RangedFile) -> None:
    at = start
    for span in spans:
        if span.offset != at:
            kind = "overlap" if span.offset < at else f"leave {span.offset - at} bytes unused"
            raise FormatError(f"{file.path}: tensors {kind} at byte {at}", reason="hostile", advice="save it again")
        at = span.offset + span.nbytes
    if at != file.size:
        raise FormatError(
            f"{file.path}: tensors end at byte {at}, the file at {file.size}", reason="corrupt", advice="copy or download it again"
        )


def parse_json(raw: bytes, path: PurePath) -> dict[str, Any]:
    """Parse a JSON object in which no key stands twice, of bounded depth.

    Raises:
        FormatError: invalid JSON, too deep, a repeated key, or not an object.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
            raise FormatError(
                f"{path}: the key '{one_line(twice, 80)}' stands twice in its header", reason="hostile", advice="do not load this file"
            )
        return made

    try:
        made = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
        is_deep = _nests_deep(made)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FormatError(f"{path}: its JSON is damaged ({error})", reason="corrupt", advice="copy or download it again") from None
    except RecursionError:
        made, is_deep = None, True
    except ValueError as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"{path}: its JSON is damaged ({error})", reason="hostile", advice="do not load this file") from None
    if is_deep:
        raise FormatError(f"{path}: its JSON nests deeper than {MAX_DEPTH}", reason="hostile", advice="do not load this file")
    if not isinstance(made, dict):
        raise FormatError(f"{path}: expected a JSON object, found {type(made).__name__}", advice="copy or download it again")
    return made


def _nests_deep(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner for one in level for inner in (one.values() if type(one) is dict else one) if type(inner) is dict or type(inner) is list
        ]
        if not level:
            return False
    return True


def save(tensors: "Checkpoint | Mapping[str, torch.Tensor]", path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Write a state dict as safetensors, deterministically: the same weights and metadata give the same bytes.

    Tensors lie by falling element size, then by name; a tied tensor is written once and its other names go into the
    metadata, as safetensors' own `save_model` does. The file appears under its name only when it is complete.

    Args:
        tensors: a state dict or a Checkpoint, which is streamed block by block.
        path: the file to write; its folder must exist.
        metadata: strings to store; a Checkpoint's own metadata is not copied.

    Returns:
        The path written.

    Raises:
        FormatError: a dtype that safetensors cannot hold, or a folder that cannot be written.

    Example:
        >>> import torch, tempfile, os
        >>> where = os.path.join(tempfile.mkdtemp(), "a.safetensors")
        >>> open_safetensors(save({"w": torch.ones(2, 2)}, where))["w"].sum()
        tensor(4.)
    """
    target = Path(path)
    if target.is_symlink():
        target = target.resolve()  # the link stays, what it leads to is written
    if not target.name or (target.exists() and not target.is_file()):
        raise FormatError(f"{path}: cannot be written, it is no regular file", reason="unreadable", advice="name a file in a folder")
    checkpoint = checkpoint_of(tensors)
    head, order = header(checkpoint.info, metadata or {})
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as stream:
            stream.write(head)
            for name in order:
                for block in checkpoint.storages[name].blocks():
                    stream.write(block)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        raise FormatError(
            f"{target}: cannot be written ({error.strerror})",
            reason="unreadable",
            advice="check the folder, its permissions and the free space",
        ) from None
    finally:
        with contextlib.suppress(OSError):  # also where the folder is none
            temporary.unlink()
    return target


def header(info: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> tuple[bytes, list[str]]:
    """Lay out a file: the bytes before its tensors, and the names of those that are stored, in the order in which they follow.

    Raises:
        FormatError: a dtype that safetensors cannot hold, or a name that it keeps for itself.
    """
    metadata = dict(metadata)
    stored = [one for one in info.values() if one.alias_of is None]
    for one in stored:
        element = dtypes.dtype(one.dtype)
        if element.kind == "quantized" or element.name == "C128":
            raise FormatError(
                f"tensor '{one_line(one.name, 80)}' has dtype {one.dtype}, which safetensors cannot hold",
                reason="unsupported",
                advice="convert it to F32 or C64",
            )
    for one in info.values():
        if one.name == "__metadata__":
            raise FormatError(
                "a tensor is named '__metadata__', which safetensors keeps for itself", reason="unsupported", advice="rename it"
            )
        if one.alias_of is not None:
            metadata[one.name] = one.alias_of
    stored.sort(key=lambda one: (-dtypes.dtype(one.dtype).bits, one.name))
    said: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    at = 0
    for one in stored:
        said[one.name] = {"dtype": one.dtype, "shape": list(one.shape), "data_offsets": [at, at + one.nbytes]}
        at += one.nbytes
    try:
        raw = json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    except UnicodeEncodeError as error:
        text = one_line(error.object[max(0, error.start - 20) : error.end], 80)
        raise FormatError(
            f"a name or metadata text ends in '{text}', which is no Unicode", reason="unsupported", advice="rename it"
        ) from None
    raw += b" " * (-(8 + len(raw)) % ALIGNMENT)
    return len(raw).to_bytes(8, "little") + raw, [one.name for one in stored]
