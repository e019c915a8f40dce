"""Tensors kept small without loss: cut into chunks, each turned into its difference from a base, split into byte planes, compressed by zstd."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import zstandard

from weightspace import dtypes
from weightspace.errors import FormatError
from weightspace.storage import BLOCK, FileSpan, RangedFile, SourceFile, Storage, part

Bytes = npt.NDArray[np.uint8]

CHUNK = 1 << 19  # bytes of a tensor that are packed as one: chunk, base and planes stay in a core's cache
LEVEL = 1  # of zstd: higher ones gain less than a hundredth on weights, at a third of the speed
WAYS = ("xor", "difference")
_WORDS = {1: "<u1", 2: "<u2", 4: "<u4", 8: "<u8"}


class _Zstd(threading.local):
    """A compressor and a decompressor for each thread: neither may be shared."""

    def __init__(self) -> None:
        # The checksum that zstd keeps of each frame finds what rots in a file that is only ever read in parts.
        self.packer = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        self.unpacker = zstandard.ZstdDecompressor()


_zstd = _Zstd()


def width_of(dtype: str) -> int:
    """Bytes of one number of a dtype, which are split into planes: 1 where numbers take a byte or less, or lie in blocks of codes."""
    kind = dtypes.dtype(dtype)
    if kind.kind == "quantized" or kind.bits < 16:
        return 1
    return int(kind.bits) // (16 if kind.kind == "complex" else 8)


def pack(raw: Bytes, width: int, base: Bytes | None = None, way: str = "xor") -> bytes:
    """Pack one chunk.

    Args:
        raw: its bytes; their number is a multiple of `width`.
        width: bytes of a number, 1, 2, 4 or 8. Sign and exponent of all numbers then lie together, apart from their mantissas.
        base: as many bytes, which `unpack` will be given again.
        way: how it differs from the base: bit by bit (`xor`), or as whole numbers, small ones of either sign being small (`difference`).
    """
    words = raw.view(_WORDS[width])
    if base is not None:
        words = words ^ base.view(words.dtype) if way == "xor" else _folded(words - base.view(words.dtype))
    if width == 1:
        return _zstd.packer.compress(words.data)
    planes = np.empty(words.nbytes, np.uint8)
    planes.reshape(width, -1)[:] = words.view(np.uint8).reshape(-1, width).T
    return _zstd.packer.compress(planes.data)


def unpack(packed: bytes | bytearray | memoryview, nbytes: int, width: int, base: Bytes | None = None, way: str = "xor") -> Bytes:
    """Undo `pack`.

    Raises:
        FormatError: it is damaged, or expands to another size than is said; no more than that is ever allocated.
    """
    try:
        size = zstandard.frame_content_size(packed)
        if size != nbytes:
            found = f"{size} bytes" if size >= 0 else "a size that it does not tell"
            raise FormatError(f"a packed chunk of {nbytes} bytes expands to {found}", reason="hostile", advice="do not load this file")
        planes = np.frombuffer(_zstd.unpacker.decompress(packed, max_output_size=nbytes, allow_extra_data=False), np.uint8)
    except zstandard.ZstdError as error:
        raise FormatError(f"a packed chunk is damaged ({error})", reason="corrupt", advice="copy or download it again") from None
    words = _joined(planes.reshape(width, -1))
    if base is not None:
        if way == "xor":
            words ^= base.view(words.dtype)
        else:
            words = _unfolded(words)
            words += base.view(words.dtype)
    made: Bytes = words.view(np.uint8)
    return made


def _joined(planes: Bytes) -> npt.NDArray[Any]:
    """Numbers from their planes, the lowest bytes first; shifts of whole planes are several times as fast as a transposition."""
    words: npt.NDArray[Any] = planes[-1].astype(_WORDS[len(planes)])
    for plane in planes[-2::-1]:
        words <<= 8
        words |= plane
    return words


def _folded(words: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Differences of either sign as numbers that are small where these are: 0, -1, 1, -2 ... become 0, 1, 2, 3 ..."""
    top = words.dtype.itemsize * 8 - 1
    return (words << 1) ^ (0 - (words >> top))


def _unfolded(words: npt.NDArray[Any]) -> npt.NDArray[Any]:
    odd = words & 1
    np.negative(odd, out=odd)  # all bits, where the difference is below zero
    words >>= 1
    words ^= odd
    return words


@dataclass(frozen=True)
class Packed:
    """A range of a packed tensor.

    Attributes:
        file: where its chunks lie, one after the other.
        offset: of the first of them.
        sizes: bytes of each of them, packed.
        chunk: bytes of each of them unpacked; the last may be shorter.
        total: bytes of the whole tensor.
        width: see `pack`.
        base: what it is the difference from, as long as the whole.
        way: see `pack`.
        start: first byte that is wanted.
        nbytes: how many are wanted.
    """

    file: RangedFile
    offset: int
    sizes: tuple[int, ...]
    chunk: int
    total: int
    width: int
    base: Storage | None
    way: str
    start: int
    nbytes: int

    def part(self, offset: int, count: int) -> Storage:
        """A range of the range; its chunks alone are read."""
        return replace(self, start=self.start + offset, nbytes=count)

    def blocks(self, size: int = BLOCK) -> Iterator[memoryview]:
        """Unpack chunk by chunk; file and base are each read as one stream, which is one request where they lie elsewhere."""
        if not self.nbytes:
            return
        first, last = self.start // self.chunk, -(-(self.start + self.nbytes) // self.chunk)
        at, end = first * self.chunk, min(last * self.chunk, self.total)
        lengths = [min(self.chunk, self.total - begin) for begin in range(at, end, self.chunk)]
        sizes = self.sizes[first:last]
        chunks = _packed(self.file, self.offset + sum(self.sizes[:first]), sizes)
        # Blocks of the base as long as chunks, since such are passed on as they are.
        bases = _cut(part(self.base, at, end - at).blocks(self.chunk), lengths) if self.base is not None else None
        for packed, length in zip(chunks, lengths, strict=True):
            base = np.frombuffer(next(bases), np.uint8) if bases is not None else None
            raw = unpack(packed, length, self.width, base, self.way).data
            wanted = raw[max(0, self.start - at) : self.start + self.nbytes - at]
            at += length
            for begin in range(0, len(wanted), size):
                yield wanted[begin : begin + size]


def _packed(file: RangedFile, offset: int, sizes: Sequence[int]) -> Iterator[memoryview]:
    """Chunks that lie one after the other: read one by one here, as one stream from elsewhere."""
    if not isinstance(file, SourceFile):
        yield from _cut(FileSpan(file, offset, sum(sizes)).blocks(), sizes)
        return
    for size in sizes:
        FileSpan(file, offset, size)  # sees that the file is so long, before memory is taken
        buffer = np.empty(size, np.uint8).data
        file.read_into(buffer, offset)
        offset += size
        yield buffer


def _cut(blocks: Iterable[memoryview], sizes: Sequence[int]) -> Iterator[memoryview]:
    """Cut a stream of blocks into pieces of these sizes; a piece is valid only until the next one is asked for."""
    stream = iter(blocks)
    rest = memoryview(b"")
    for size in sizes:
        if not rest and size:
            rest = next(stream)
        if len(rest) >= size:
            yield rest[:size]
            rest = rest[size:]
            continue
        piece, at = np.empty(size, np.uint8).data, 0
        while at < size:
            if not rest:
                rest = next(stream)
            count = min(len(rest), size - at)
            piece[at : at + count] = rest[:count]
            rest, at = rest[count:], at + count
        yield piece


__all__ = ["CHUNK", "WAYS", "Packed", "pack", "unpack", "width_of"]
