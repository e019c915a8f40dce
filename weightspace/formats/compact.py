"""Compact files of a zoo's store: each tensor raw, packed, packed as its difference from a tensor of another model, or said to be equal to one."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightspace import dtypes
from weightspace.checkpoint import FREE, MAX_RATIO, Checkpoint, TensorInfo
from weightspace.errors import FormatError, one_line
from weightspace.formats import checkpoint_format
from weightspace.formats.safetensors import MAX_HEADER, parse_json, read_header
from weightspace.packing import WAYS, Packed, width_of
from weightspace.provenance import told
from weightspace.storage import FileSpan, RangedFile, SourceFile, Storage

MAGIC = b"WSCOMP1\n"
START = 24  # bytes before the tensors: the magic, where the header begins and how long it is, both of eight bytes
MAX_DEPTH = 8  # bases of bases that are followed
SUFFIXES = (".safetensors", ".compact")
_CHUNKS = (1 << 12, 1 << 24)
_ID = re.compile(r"[0-9a-f]{64}")
_ADVICE = "do not load this file"

Find = Callable[[str], RangedFile | None]
"""Where the weights of a model (id, hex) lie in the store; None where they do not."""


def sniff(path: Path, head: bytes) -> bool:
    """The magic of a compact file."""
    return head.startswith(MAGIC)


@checkpoint_format("compact", sniff=sniff)
def open_compact(path: Path) -> Checkpoint:
    """Open a compact file of a store, whose folders lie beside its own."""
    return opened(SourceFile.at(path), within(path.parent.parent), path)


def within(root: Path) -> Find:
    """Look models up in a store that is a folder; only ids are looked up there, and links that lead out of it are not followed."""

    def find(model: str) -> RangedFile | None:
        for suffix in SUFFIXES:
            path = root / model[:2] / f"{model}{suffix}"
            if path.is_file() and path.resolve().is_relative_to(root.resolve()):
                return SourceFile.at(path)
        return None

    return find


def opened(file: RangedFile, find: Find, path: Path | None = None) -> Checkpoint:
    """Open a compact file and the headers of all that it needs.

    Args:
        file: the file, here or elsewhere.
        find: where the models lie that it refers to.
        path: of the file, where it is here.

    Raises:
        FormatError: a header that makes no sense or claims what cannot be, a model that it needs is missing, or they lead in a circle.
    """
    opening = _Opening(find)
    info, storages, said = opening.tensors(file)
    claimed, stored = sum(one.nbytes for one in info.values() if one.alias_of is None), sum(one.size for one in opening.files.values())
    if claimed > stored * MAX_RATIO + FREE:
        raise _hostile(file, f"its tensors claim {claimed} bytes from files of {stored}")
    files = [Path(one.path) for one in (file, *opening.files.values()) if isinstance(one, SourceFile)]
    recipe, parents = told(said)
    kind = "signature" if recipe is not None and recipe.get("kind") == "signature" else "full"
    return Checkpoint(info, storages, "compact", path, tuple(dict.fromkeys(files)), said, kind, recipe=recipe, parents=parents)


Opened = tuple[dict[str, TensorInfo], dict[str, Storage], dict[str, str]]


class _Opening:
    """One opening: every file that is needed is read once."""

    def __init__(self, find: Find) -> None:
        self.find = find
        self.known: dict[str, Opened] = {}
        self.files: dict[str, RangedFile] = {}
        self.above: list[str] = []

    def tensors(self, file: RangedFile) -> Opened:
        """Headers and storages of a compact file."""
        header, end = read_compact_header(file)
        self.files[str(file.path)] = file
        self.above.append(header["id"])
        bases = [self._base(model, file) for model in header["bases"]]
        self.above.pop()
        return _Reading(file, header, end, bases).tensors()

    def _base(self, model: str, file: RangedFile) -> Opened:
        if model in self.above:
            raise _hostile(file, f"it needs model {model[:12]}, which needs it")
        if len(self.above) > MAX_DEPTH:
            raise _hostile(file, f"it needs a model that needs one, and so on, more than {MAX_DEPTH} deep")
        if model not in self.known:
            found = self.find(model)
            if found is None:
                raise FormatError(
                    f"{file.path}: it is kept as what differs from model {model[:12]}, which the store does not have",
                    reason="missing",
                    advice="bring that model's file back to the store; a compact file is read in the store that it was written for",
                )
            self.files[str(found.path)] = found
            if found.size >= START and found.read(0, len(MAGIC)) == MAGIC:
                self.known[model] = self.tensors(found)
            else:
                info, spans, metadata = read_header(found)
                self.known[model] = info, dict(spans), metadata
        return self.known[model]


def read_compact_header(file: RangedFile) -> tuple[dict[str, Any], int]:
    """The header of a compact file, and where its tensors end.

    Raises:
        FormatError: it is none, or its parts are not of the kinds that they should be.
    """
    head = file.read(0, min(START, file.size))
    end, length = int.from_bytes(head[8:16], "little"), int.from_bytes(head[16:24], "little")
    if len(head) < START or head[:8] != MAGIC or length > MAX_HEADER or end < START or end + length != file.size:
        reason = "hostile" if length > MAX_HEADER else "truncated"
        raise FormatError(
            f"{file.path}: claims a header of {length} bytes at {end} in a file of {file.size}",
            reason=reason,
            advice="copy or download it again",
        )
    header = parse_json(file.read(end, length), file.path)
    bases, tensors, metadata = header.get("bases"), header.get("tensors"), header.get("metadata", {})
    is_sound = (
        isinstance(header.get("id"), str)
        and _ID.fullmatch(header["id"])
        and isinstance(bases, list)
        and all(isinstance(one, str) and _ID.fullmatch(one) for one in bases)
        and isinstance(tensors, dict)
        and all(isinstance(one, dict) for one in tensors.values())
        and isinstance(metadata, dict)
        and all(isinstance(one, str) for one in metadata.values())
        and type(header.get("chunk")) is int
        and _CHUNKS[0] <= header["chunk"] <= _CHUNKS[1]
    )
    if not is_sound:
        raise _hostile(file, "its header lacks an id, a size of chunks, bases that are ids, or tensors")
    return header, end


@dataclass(frozen=True)
class _Reading:
    """The tensors of one header."""

    file: RangedFile
    header: Mapping[str, Any]
    end: int
    bases: Sequence[Opened]

    def tensors(self) -> Opened:
        """Headers and storages, every claim checked."""
        entries = self.header["tensors"]
        info = {name: self._info(name, entry) for name, entry in entries.items()}
        storages: dict[str, Storage] = {}
        spans = sorted((*self._span(name, entry), name) for name, entry in entries.items() if "at" in entry)
        at = START
        for begin, stop, name in spans:
            if begin != at:
                raise _hostile(self.file, f"its tensors overlap or leave bytes unused at byte {at}")
            at = stop
            storages[name] = self._stored(name, entries[name], info[name], begin, stop)
        if at != self.end:
            raise _hostile(self.file, f"its tensors end at byte {at}, its header begins at {self.end}")
        for name, entry in entries.items():
            if "at" not in entry and info[name].alias_of is None:
                storages[name] = self._referred(name, entry, info[name], info, storages)
        for name, one in info.items():
            if one.alias_of is not None:
                owner = info.get(one.alias_of)
                if owner is None or owner.alias_of is not None or (owner.dtype, owner.shape) != (one.dtype, one.shape):
                    raise self._wrong(name, "is tied to what is no such tensor")
                storages[name] = storages[one.alias_of]
        return info, {name: storages[name] for name in info}, dict(self.header.get("metadata", {}))

    def _info(self, name: str, entry: Mapping[str, Any]) -> TensorInfo:
        dtype, shape, alias = entry.get("dtype"), entry.get("shape"), entry.get("alias_of")
        if not isinstance(dtype, str) or dtype not in dtypes.DTYPES:
            raise FormatError(
                f"{self.file.path}: tensor '{one_line(name, 80)}' has the unknown dtype '{one_line(str(dtype), 40)}'",
                reason="unsupported",
                advice="update weightspace",
            )
        if (
            not isinstance(shape, list)
            or len(shape) > 64
            or not _are_sizes(shape)
            or not isinstance(alias, str | None)
            or dtypes.num_bytes(dtypes.dtype(dtype), shape) >= 1 << 63
        ):
            raise self._wrong(name, f"has the shape {one_line(str(shape), 80)}")
        return TensorInfo(name, dtype, tuple(shape), alias)

    def _span(self, name: str, entry: Mapping[str, Any]) -> tuple[int, int]:
        at = entry["at"]
        if not (isinstance(at, list) and len(at) == 2 and _are_sizes(at) and at[0] <= at[1] <= self.end):
            raise self._wrong(name, f"lies at bytes {one_line(str(at), 80)}")
        return at[0], at[1]

    def _stored(self, name: str, entry: Mapping[str, Any], info: TensorInfo, begin: int, stop: int) -> Storage:
        """What lies in this file: as it is, or packed."""
        sizes = entry.get("chunks")
        if sizes is None:
            if stop - begin != info.nbytes:
                raise self._wrong(name, f"needs {info.nbytes} bytes, its header gives {stop - begin}")
            return FileSpan(self.file, begin, stop - begin)
        chunk = self.header["chunk"]
        if not isinstance(sizes, list) or not _are_sizes(sizes) or len(sizes) != -(-info.nbytes // chunk) or sum(sizes) != stop - begin:
            raise self._wrong(name, f"of {info.nbytes} bytes has chunks that do not fill its {stop - begin} bytes")
        way, base = entry.get("way", "xor"), None
        if "base" in entry:
            if way not in WAYS:
                raise self._wrong(name, f"differs from its base in an unknown way, '{one_line(str(way), 40)}'")
            base = self._of_base(name, entry, info)
        return Packed(self.file, begin, tuple(sizes), chunk, info.nbytes, width_of(info.dtype), base, way, 0, info.nbytes)

    def _referred(
        self, name: str, entry: Mapping[str, Any], info: TensorInfo, own: Mapping[str, TensorInfo], stored: Mapping[str, Storage]
    ) -> Storage:
        """What lies elsewhere: in another model, or under another name of this one."""
        if "base" in entry:
            return self._of_base(name, entry, info)
        of = entry.get("of")
        if not isinstance(of, str) or of not in stored or (own[of].dtype, own[of].shape) != (info.dtype, info.shape):
            raise self._wrong(name, "has no bytes and refers to none")
        return stored[of]

    def _of_base(self, name: str, entry: Mapping[str, Any], info: TensorInfo) -> Storage:
        at, of = entry["base"], entry.get("of")
        if type(at) is not int or not 0 <= at < len(self.bases) or not isinstance(of, str):
            raise self._wrong(name, "refers to no model")
        there, storages, _ = self.bases[at]
        if of not in there or (there[of].dtype, there[of].shape) != (info.dtype, info.shape):
            raise self._wrong(name, f"refers to '{one_line(of, 80)}' of model {self.header['bases'][at][:12]}, which has no such tensor")
        return storages[of]

    def _wrong(self, name: str, what: str) -> FormatError:
        return _hostile(self.file, f"tensor '{one_line(name, 80)}' {what}")


def _are_sizes(values: Sequence[Any]) -> bool:
    return all(type(one) is int and 0 <= one < 1 << 63 for one in values)


def _hostile(file: RangedFile, what: str) -> FormatError:
    return FormatError(f"{file.path}: {what}", reason="hostile", advice=_ADVICE)


def needs(file: RangedFile) -> tuple[str, ...]:
    """Ids of the models that a compact file needs, from its own header.

    Raises:
        FormatError: it is no compact file, or damaged.
    """
    return tuple(read_compact_header(file)[0]["bases"])


__all__ = ["MAGIC", "START", "SUFFIXES", "needs", "open_compact", "opened", "read_compact_header", "within"]
