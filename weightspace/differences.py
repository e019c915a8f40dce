"""The exact difference between two checkpoints: a small file from which one comes back, bit for bit, when the other is there.

What is stored of each word (`weightspace.words`) is `of - against` modulo its size, folded so that small differences of either sign
are small numbers, a byte plane after the other: the high bytes of two models that are near each other are zeros nearly everywhere.
Runs and frequencies are all there is to find in such planes, so deflate looks for nothing
else (`Z_RLE`), which is both smaller and faster than its search for repeats.
"""

import json
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from weightspace import dtypes, identity
from weightspace.checkpoint import MAX_RATIO, Checkpoint, TensorInfo
from weightspace.errors import FormatError, guarded, one_line
from weightspace.formats.safetensors import parse_json, read_header, save
from weightspace.storage import BLOCK, FileSpan, Memory, SourceFile, Storage
from weightspace.words import CASTS, Words, cut, folded, near_words, unfolded, word_size, words_of

KEY = "weightspace.difference"  # of the metadata that describes the file
VERSION = 1
_LENGTH = 4  # bytes of the number that stands before each plane


def write_difference(of: Checkpoint, against: Checkpoint, path: str | Path) -> Path:
    """Store what is needed to get `of` back from `against`; reads both block by block.

    Tensors of another shape than in `against`, or that it lacks, are stored whole; so are those of another dtype, unless both are
    floats: then the other's values are rounded first. Equal tensors cost a line of the description. Ties, order and kind are kept;
    container metadata and optimizer state (`extras`) are not.

    Args:
        of: what is to come back.
        against: what will be there when it is wanted.
        path: the safetensors file to write; the same two checkpoints give the same bytes.

    Returns:
        The path written.

    Raises:
        FormatError: a checkpoint that cannot be read, or a file that cannot be written.

    Example:
        >>> import torch
        >>> a, b = (Checkpoint.of({"w": torch.tensor([1., x])}) for x in (2., 3.))
        >>> where = write_difference(a, b, Path(tempfile.mkdtemp()) / "a.safetensors")
        >>> apply_difference(b, where)["w"]
        tensor([1., 2.])
    """
    rows = [_row(one, of, against) for one in of.info.values()]
    about = {"version": VERSION, "of": of.id, "against": against.id, "kind": of.kind, "tensors": rows}
    described = json.dumps(about, ensure_ascii=True, separators=(",", ":"))
    try:
        # What planes take is known only once they are packed, and a safetensors header stands before them.
        with tempfile.NamedTemporaryFile(dir=Path(path).parent, prefix=".difference.") as spool:
            ends = {str(row["name"]): _pack_into(spool, row, of, against) for row in rows if "hash" in row}
            spool.flush()
            file = SourceFile.at(Path(spool.name))
            try:
                return save(_packed(file, ends), path, {KEY: described})
            finally:
                file.close()
    except OSError as error:
        advice = "check the folder, its permissions and the free space"
        raise FormatError(f"{path}: cannot be written ({error.strerror or error})", reason="unreadable", advice=advice) from None


def _row(one: TensorInfo, of: Checkpoint, against: Checkpoint) -> dict[str, Any]:
    """Describe one tensor: tied, the same as in `against`, changed (with its hash, and dtype if that is another), or whole (with shape)."""
    owner = None if one.alias_of is None else of.info[one.alias_of]
    if owner is not None and (one.dtype, one.shape) == (owner.dtype, owner.shape):
        return {"name": one.name, "tied": owner.name}
    row: dict[str, Any] = {"name": one.name}
    if of.tensor_hashes[one.name] != against.tensor_hashes.get(one.name):
        row["hash"] = of.tensor_hashes[one.name].hex()
        other = against.info.get(one.name)
        if other is None or one.dtype != other.dtype or one.shape != other.shape:
            row["dtype"] = one.dtype
            if other is None or one.shape != other.shape or not CASTS.issuperset((one.dtype, other.dtype)):
                row["shape"] = list(one.shape)
    return row


def _packed(file: SourceFile, ends: Mapping[str, int]) -> Checkpoint:
    """The packed tensors as a checkpoint of bytes."""
    starts = [0, *ends.values()]
    sizes = {name: end - start for (name, end), start in zip(ends.items(), starts, strict=False)}
    info = {name: TensorInfo(name, "U8", (size,)) for name, size in sizes.items()}
    return Checkpoint(info, {name: FileSpan(file, ends[name] - size, size) for name, size in sizes.items()}, "memory")


def _pack_into(stream: IO[bytes], row: Mapping[str, Any], of: Checkpoint, against: Checkpoint) -> int:
    """Pack one tensor; returns where it ends."""
    name = row["name"]
    size = word_size(of.info[name])
    near = None if "shape" in row else near_words(against.storages[name], against.info[name], of.info[name], BLOCK)
    for block in cut(of.storages[name], BLOCK):
        words = words_of(block, size)
        if near is not None:
            words = folded(words - next(near))
        for plane in words.view(np.uint8).reshape(-1, size).T:
            stream.write(_deflated(plane.tobytes()))
    return stream.tell()


def _deflated(plane: bytes) -> bytes:
    """One plane behind its length; as it is where deflating gains nothing."""
    deflater = zlib.compressobj(1, zlib.DEFLATED, zlib.MAX_WBITS, 9, zlib.Z_RLE)
    packed = deflater.compress(plane) + deflater.flush()
    best = min(plane, packed, key=len)
    return len(best).to_bytes(_LENGTH, "little") + best


def apply_difference(against: Checkpoint, path: str | Path) -> Checkpoint:
    """Get back what a difference was made of; its tensors are restored when they are read.

    The ids of both sides are checked now (`against` is read once for that, unless its id is known already), and each tensor
    against its hash when it has been read to its end.

    Raises:
        FormatError: the file is no difference, damaged, hostile, or was made against another checkpoint.
    """
    return guarded(partial(_apply, against), Path(path))


def _apply(against: Checkpoint, path: Path) -> Checkpoint:
    file = SourceFile.at(path)
    _, spans, metadata = read_header(file)
    about = parse_json(metadata.get(KEY, "{}").encode(), path)
    if about.get("version") != VERSION:
        found = f"version {one_line(str(about['version']), 40)}" if "version" in about else "none"
        advice = "name a file that write_difference made"
        raise FormatError(f"{path}: expected a difference of version {VERSION}, found {found}", reason="unsupported", advice=advice)
    if about["against"] != against.id:
        made = f"{path}: was made against model {one_line(str(about['against']), 12)}, found {against.id[:11]}…"
        raise FormatError(made, reason="missing", advice="give the checkpoint that it was made against, unchanged")
    info = _described(about["tensors"], against, path)
    hashes = {row["name"]: _hash(row, against) for row in about["tensors"] if "tied" not in row}
    hashes |= {name: hashes[one.alias_of] for name, one in info.items() if one.alias_of is not None}
    if {row["name"] for row in about["tensors"] if "hash" in row} != spans.keys():
        raise FormatError(f"{path}: does not hold the tensors that it describes", advice="copy it again")
    if identity.model_id((name, one.dtype, one.shape, hashes[name]) for name, one in info.items()).hex() != about["of"]:
        raise FormatError(f"{path}: does not describe the model that it names", advice="copy it again")
    storages: dict[str, Storage] = {}
    for row in about["tensors"]:
        name = row["name"]
        if "hash" in row:
            base = None if "shape" in row else (against.info[name], against.storages[name])
            storages[name] = Restored(info[name], spans[name], base, hashes[name])
        elif "tied" not in row:
            storages[name] = against.storages[name]
    storages |= {name: storages[one.alias_of] for name, one in info.items() if one.alias_of is not None}
    return Checkpoint(info, storages, "difference", path=path, kind=str(about["kind"]))


def _described(rows: list[Mapping[str, Any]], against: Checkpoint, path: Path) -> dict[str, TensorInfo]:
    """What the description says of each tensor; a wrong type in it raises what `guarded` reports as damage."""
    info: dict[str, TensorInfo] = {}
    for row in rows:
        name = row["name"]
        if name in info or not isinstance(name, str):
            what = f"the tensor '{one_line(name, 80)}' twice" if isinstance(name, str) else f"a tensor named {one_line(repr(name), 80)}"
            raise FormatError(f"{path}: describes {what}", reason="hostile", advice="do not use it")
        if "tied" in row:
            info[name] = TensorInfo(name, "U8", (), row["tied"])
        elif "shape" in row:
            info[name] = TensorInfo(name, dtypes.dtype(row["dtype"]).name, _shape(row["shape"]))
        else:
            stored = against.info[name]
            info[name] = TensorInfo(name, row.get("dtype", stored.dtype), stored.shape)
            if info[name].dtype != stored.dtype and not CASTS.issuperset((info[name].dtype, stored.dtype)):
                what = f"describes tensor '{one_line(name, 80)}' as {one_line(str(info[name].dtype), 20)} from {stored.dtype}"
                raise FormatError(f"{path}: {what}", reason="hostile", advice="do not use it")
    owners = {name: info[one.alias_of] for name, one in info.items() if one.alias_of is not None}
    return info | {name: TensorInfo(name, owner.dtype, owner.shape, owner.name) for name, owner in owners.items()}


def _shape(given: list[Any]) -> tuple[int, ...]:
    if len(given) > 64 or any(type(size) is not int or not 0 <= size < 1 << 63 for size in given):
        raise FormatError(f"describes a tensor of shape {one_line(str(given), 80)}", reason="hostile", advice="do not use it")
    return tuple(given)


def _hash(row: Mapping[str, Any], against: Checkpoint) -> bytes:
    return bytes.fromhex(row["hash"]) if "hash" in row else against.tensor_hashes[row["name"]]


@dataclass(frozen=True)
class Restored:
    """A tensor's bytes, made from a packed difference and the bytes that it was made against.

    Attributes:
        info: of the tensor.
        packed: its planes.
        base: the tensor that it differs from; None where it was stored whole.
        digest: its hash, checked where it is read to its end.
    """

    info: TensorInfo
    packed: FileSpan
    base: tuple[TensorInfo, Storage] | None
    digest: bytes

    def __post_init__(self) -> None:
        if self.nbytes > MAX_RATIO * self.packed.nbytes:
            what = f"claims {self.nbytes} bytes from {self.packed.nbytes} stored ones"
            raise self._damaged(what, "hostile")

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.info.nbytes

    def blocks(self, size: int = BLOCK) -> Iterator[memoryview]:
        """Restore block by block."""
        width, at = word_size(self.info), 0
        hasher = identity.tensor_hasher(self.info.dtype, self.info.shape)
        near = None if self.base is None else near_words(self.base[1], self.base[0], self.info, BLOCK)
        for start in range(0, self.nbytes, BLOCK):
            planes: npt.NDArray[np.uint8] = np.empty((width, min(BLOCK, self.nbytes - start) // width), np.uint8)
            for plane in planes:
                length = int.from_bytes(self._read(at, _LENGTH), "little")
                plane[:] = np.frombuffer(self._inflated(self._read(at + _LENGTH, length), plane.size), np.uint8)
                at += _LENGTH + length
            words: Words = np.ascontiguousarray(planes.T).reshape(-1).view(f"<u{width}")
            if near is not None:
                words = next(near) + unfolded(words)
            block = words.view(np.uint8).data
            hasher.update(block)
            yield from Memory(block).blocks(size)
        if at != self.packed.nbytes or hasher.digest() != self.digest:
            raise self._damaged("does not have the hash that was stored with it")

    def _read(self, offset: int, count: int) -> bytes:
        if offset + count > self.packed.nbytes:
            raise self._damaged(f"ends after {self.packed.nbytes} bytes, expected {offset + count}", "truncated")
        return self.packed.file.read(self.packed.offset + offset, count)

    def _inflated(self, packed: bytes, expected: int) -> bytes:
        if len(packed) == expected:
            return packed
        inflater = zlib.decompressobj()
        try:
            plane = inflater.decompress(packed, expected + 1)  # one byte more shows a lie
        except zlib.error as error:
            raise self._damaged(f"cannot be inflated ({error})") from None
        if len(plane) != expected or not inflater.eof or inflater.unused_data:
            raise self._damaged(f"inflates to {'more' if len(plane) > expected else len(plane)} bytes, expected {expected}", "hostile")
        return plane

    def _damaged(self, what: str, reason: str = "corrupt") -> FormatError:
        advice = "do not use it" if reason == "hostile" else "copy it again"
        return FormatError(f"{self.packed.file.path}: tensor '{one_line(self.info.name, 80)}' {what}", reason=reason, advice=advice)
