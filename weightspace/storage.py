"""Where a tensor's bytes lie, and how they are read block by block without holding a file in memory."""

import itertools
import math
import os
import stat
import threading
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from weightspace.errors import FormatError, one_line

MAX_EXPANDED = 1 << 20  # a view may repeat its elements up to this many bytes: small expanded buffers are honest, large ones are bombs
MAX_CUT_AXES = 6  # of one tensor: meshes of devices have two or three axes
BLOCK = 1 << 18  # bytes read at a time: a block and its scratch stay in a core's second-level cache


@runtime_checkable
class Storage(Protocol):
    """A tensor's bytes, wherever they are."""

    @property
    def nbytes(self) -> int:
        """Bytes in all, known before anything is read."""

    def blocks(self, size: int = BLOCK) -> Iterator[memoryview]:
        """Yield the bytes in order, little-endian and C-contiguous; a block is valid only until the next one is asked for."""


@runtime_checkable
class Divisible(Protocol):
    """A storage that knows how to give a range of itself without reading the rest."""

    def part(self, offset: int, count: int) -> Storage:
        """The range; it lies within."""


def read(storage: Storage) -> bytearray:
    """Read all bytes of a storage into one new buffer."""
    out = bytearray(storage.nbytes)
    view, at = memoryview(out), 0
    for block in storage.blocks():
        view[at : at + len(block)] = block
        at += len(block)
    return out


@runtime_checkable
class RangedFile(Protocol):
    """A file of which ranges are read, here or elsewhere."""

    @property
    def path(self) -> PurePath:
        """Where it lies, for messages."""

    @property
    def size(self) -> int:
        """Its bytes."""

    def read(self, offset: int, count: int) -> bytes:
        """Read `count` bytes from an offset; never allocates more than the file holds."""

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer from an offset."""

    def blocks(self, offset: int, count: int, size: int = BLOCK) -> Iterator[memoryview]:
        """Yield a range in blocks of at most `size` bytes; a block is valid only until the next one is asked for."""


_MAX_OPEN = 32
_open_files: "OrderedDict[SourceFile, int]" = OrderedDict()
_open_lock = threading.RLock()


@dataclass(frozen=True)
class SourceFile:
    """A file that checkpoints are read from: opened when first read, at most `_MAX_OPEN` at once, never written.

    Attributes:
        path: where it lies.
        size: bytes, when it was first looked at.
        stamp: inode and modification time then; a file that changes under a reader is an error, not a mixture.
    """

    path: Path
    size: int
    stamp: tuple[int, int] = field(compare=True)

    @classmethod
    def at(cls, path: Path) -> "SourceFile":
        """Look at the file without opening it."""
        try:
            status = path.stat()
        except OSError as error:
            raise FormatError(
                f"{path}: cannot be read ({error.strerror})", reason="unreadable", advice="check the path and its permissions"
            ) from None
        if not stat.S_ISREG(status.st_mode):
            raise FormatError(f"{path}: is not a regular file", reason="unreadable", advice="name a file")
        return cls(path, status.st_size, (status.st_ino, status.st_mtime_ns))

    def _descriptor(self) -> int:
        descriptor = _open_files.get(self)
        if descriptor is not None:
            _open_files.move_to_end(self)
            return descriptor
        try:
            descriptor = os.open(self.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0))
        except OSError as error:
            raise FormatError(
                f"{self.path}: cannot be read ({error.strerror})", reason="unreadable", advice="check its permissions"
            ) from None
        try:
            self._check(descriptor)
        except FormatError:
            os.close(descriptor)
            raise
        _open_files[self] = descriptor
        while len(_open_files) > _MAX_OPEN:
            os.close(_open_files.popitem(last=False)[1])
        return descriptor

    def _check(self, descriptor: int) -> None:
        """Refuse a file that is not the one that was looked at."""
        status = os.fstat(descriptor)
        if (status.st_ino, status.st_mtime_ns) != self.stamp:
            raise FormatError(
                f"{self.path}: changed while it was being read", reason="unreadable", advice="open it again when it is complete"
            )

    def read_into(self, buffer: memoryview, offset: int) -> None:
        """Fill the buffer from an offset.

        Raises:
            FormatError: the file ends first, or changed since it was opened.
        """
        done = 0
        while done < len(buffer):
            with _open_lock:
                descriptor = self._descriptor()
                got = os.preadv(descriptor, [buffer[done:]], offset + done)
                self._check(descriptor)
            if got <= 0:
                raise FormatError(
                    f"{self.path}: expected {len(buffer)} bytes at offset {offset}, the file ends after {offset + done}",
                    reason="truncated",
                    advice="copy or download it again",
                )
            done += got

    def read(self, offset: int, count: int) -> bytes:
        """Read `count` bytes from an offset; never allocates more than the file holds."""
        if count < 0 or offset < 0 or offset + count > self.size:
            raise FormatError(
                f"{self.path}: expected {count} bytes at offset {offset}, the file has {self.size}",
                reason="truncated",
                advice="copy or download it again",
            )
        buffer = bytearray(count)
        self.read_into(memoryview(buffer), offset)
        return bytes(buffer)

    def blocks(self, offset: int, count: int, size: int = BLOCK) -> Iterator[memoryview]:
        """Read a range block by block into one buffer."""
        buffer = memoryview(bytearray(min(size, count)))
        for start in range(0, count, size):
            block = buffer[: min(size, count - start)]
            self.read_into(block, offset + start)
            yield block

    def close(self) -> None:
        """Close the file if it is open; reading opens it again."""
        with _open_lock:
            descriptor = _open_files.pop(self, None)
            if descriptor is not None:
                os.close(descriptor)


@dataclass(frozen=True)
class FileSpan:
    """Bytes that lie in one piece in a file, in their final order."""

    file: RangedFile
    offset: int
    nbytes: int

    def __post_init__(self) -> None:
        if self.nbytes < 0 or self.offset < 0 or self.offset + self.nbytes > self.file.size:
            raise FormatError(
                f"{self.file.path}: expected {self.nbytes} bytes at offset {self.offset}, the file has {self.file.size}",
                reason="truncated",
                advice="copy or download it again",
            )

    def blocks(self, size: int = BLOCK) -> Iterator[memoryview]:
        """Read block by block."""
        return self.file.blocks(self.offset, self.nbytes, size)


@dataclass(frozen=True)
class Memory:
    """Bytes that are in memory already."""

    data: bytes | bytearray | memoryview

    def __reduce__(self) -> tuple[Any, ...]:
        return Memory, (bytes(self.data),)  # views cannot be pickled

    @property
    def nbytes(self) -> int:
        """Bytes in all."""
        return memoryview(self.data).nbytes

    def blocks(self, size: int = BLOCK) -> Iterator[memoryview]:
        """Cut the bytes into blocks without copying."""
        view = memoryview(self.data).cast("B")
        for start in range(0, len(view), size):
            yield view[start : start + size]


@dataclass(frozen=True)
class Strided:
    """A view into other bytes, as torch saves it: the elements of a shape at given strides, in row-major order."""

    base: Storage
    itemsize: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        reach = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True)) + 1
        empty = 0 in self.shape
        if len(self.shape) > 64 or min((*self.shape, *self.stride, self.offset), default=0) < 0:
            raise FormatError(
                f"a tensor view with shape {self.shape} and stride {self.stride} makes no sense",
                reason="hostile",
                advice="do not load this file",
            )
        if not empty and reach * self.itemsize > self.base.nbytes:
            raise FormatError(
                f"a tensor needs {reach * self.itemsize} bytes of its storage, which has {self.base.nbytes}",
                reason="truncated",
                advice="copy or download it again",
            )
        if self.nbytes > max(self.base.nbytes, MAX_EXPANDED):
            raise FormatError(
                f"a tensor of shape {self.shape} claims {self.nbytes} bytes from {self.base.nbytes} stored ones by repeating them (stride {self.stride})",
                reason="hostile",
                advice="if the file is yours, save tensor.contiguous() instead of an expanded view",
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the view, each element counted once a position."""
        return self.itemsize * int(np.prod(self.shape, dtype=object)) if self.shape else self.itemsize

    def blocks(self, size: int = BLOCK) -> Iterator[memoryview]:
        """Gather the view's elements; a contiguous view is read straight from its storage, for others the range that they cover is held in memory."""
        if self.nbytes == 0:
            return
        if is_contiguous(self.shape, self.stride):
            yield from part(self.base, self.offset * self.itemsize, self.nbytes).blocks(size)
            return
        reach = sum((n - 1) * s for n, s in zip(self.shape, self.stride, strict=True)) + 1
        covered = np.frombuffer(read(part(self.base, self.offset * self.itemsize, reach * self.itemsize)), f"V{self.itemsize}")
        view = np.lib.stride_tricks.as_strided(covered, self.shape, [s * self.itemsize for s in self.stride], writeable=False)
        yield from Memory(np.ascontiguousarray(view).reshape(-1).view(np.uint8).data).blocks(size)


@dataclass(frozen=True)
class Inflated:
    """A range of what a deflated run of bytes expands to.

    Attributes:
        packed: the deflated bytes.
        size: bytes that they expand to.
        checksum: CRC-32 of those; checked where they are read to their end.
        offset: first expanded byte that is wanted.
        nbytes: how many are wanted.
    """

    packed: FileSpan
    size: int
    checksum: int
    offset: int
    nbytes: int

    def blocks(self, size: int = BLOCK) -> Iterator[memoryview]:
        """Expand from the beginning and drop what lies before the range."""
        at, end, checksum = 0, self.offset + self.nbytes, 0
        for block in self._expanded(size):
            checksum = zlib.crc32(block, checksum)
            wanted = memoryview(block)[max(0, self.offset - at) : max(0, end - at)]
            at += len(block)
            if len(wanted):
                yield wanted
            if at >= end and end < self.size:
                return
        if at != self.size or checksum != self.checksum:
            what = (
                f"expands to {'more' if at > self.size else at}"
                if at != self.size
                else "does not have the checksum that its archive states"
            )
            raise FormatError(
                f"{self.packed.file.path}: a compressed member of {self.size} bytes {what}",
                reason="hostile" if at > self.size else "truncated" if at < self.size else "corrupt",
                advice="copy or download it again",
            )

    def _expanded(self, size: int) -> Iterator[bytes]:
        inflater, left = zlib.decompressobj(-zlib.MAX_WBITS), self.size + 1  # one byte more shows a lie
        try:
            for packed in self.packed.blocks():
                rest: bytes | memoryview = packed
                while left and (block := inflater.decompress(rest, min(size, left))):
                    left -= len(block)
                    rest = inflater.unconsumed_tail
                    yield block
        except zlib.error as error:
            raise FormatError(
                f"{self.packed.file.path}: a compressed member is damaged ({error})", reason="corrupt", advice="copy or download it again"
            ) from None


@dataclass(frozen=True)
class Produced:
    """Bytes that a function makes when they are asked for (a decompressor, a subprocess, several files put together)."""

    nbytes: int
    produce: Callable[[], Any]

    def blocks(self, size: int = BLOCK) -> Iterator[memoryview]:
        """Make the bytes, check their number, cut them into blocks."""
        made = Memory(self.produce())
        if made.nbytes != self.nbytes:
            raise FormatError(
                f"expected {self.nbytes} bytes of tensor data, found {made.nbytes}", reason="truncated", advice="copy or download it again"
            )
        yield from made.blocks(size)


@dataclass(frozen=True)
class Pieces:
    """A tensor laid together from boxes: each piece fills `shape[starts : starts + lengths]`; together they fill it all.

    Attributes:
        pieces: (starts, lengths, storage) of each box.
    """

    itemsize: int
    shape: tuple[int, ...]
    pieces: tuple[tuple[tuple[int, ...], tuple[int, ...], Storage], ...]

    def __post_init__(self) -> None:
        filled = 0
        for starts, lengths, storage in self.pieces:
            if any(s < 0 or n < 0 or s + n > size for s, n, size in zip(starts, lengths, self.shape, strict=True)):
                raise FormatError(
                    f"a piece at {starts} of size {lengths} lies outside its tensor of shape {self.shape}",
                    advice="copy or download it again",
                )
            count = int(np.prod(lengths, dtype=object)) if lengths else 1
            if storage.nbytes != count * self.itemsize:
                raise FormatError(
                    f"a piece of size {lengths} has {storage.nbytes} bytes, expected {count * self.itemsize}",
                    advice="copy or download it again",
                )
            filled += storage.nbytes
        if filled != self.nbytes:
            raise FormatError(
                f"the pieces of a tensor of shape {self.shape} hold {filled} bytes, expected {self.nbytes}",
                reason="missing",
                advice="bring all shards together",
            )
        if not _tile(self.shape, [(starts, lengths) for starts, lengths, _ in self.pieces]):
            raise FormatError(
                f"the pieces of a tensor of shape {self.shape} overlap and leave holes", reason="hostile", advice="save it again"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return self.itemsize * (int(np.prod(self.shape, dtype=object)) if self.shape else 1)

    def blocks(self, size: int = BLOCK) -> Iterator[memoryview]:
        """Read pieces that follow one another along the first axis one by one; put others together in memory."""
        ordered = sorted(self.pieces, key=lambda piece: piece[0])
        if all(lengths[1:] == self.shape[1:] for _, lengths, _ in ordered):
            for _, _, storage in ordered:
                yield from storage.blocks(size)
            return
        whole: npt.NDArray[np.void] = np.empty(self.shape, f"V{self.itemsize}")
        for starts, lengths, storage in ordered:
            box = tuple(slice(s, s + n) for s, n in zip(starts, lengths, strict=True))
            whole[box] = np.frombuffer(read(storage), f"V{self.itemsize}").reshape(lengths)
        yield from Memory(whole.reshape(-1).view(np.uint8).data).blocks(size)


def _tile(shape: tuple[int, ...], boxes: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> bool:
    """Whether boxes that lie inside a shape fill it, each place once.

    A box is a sum of orthants with signs, one at each of its corners, and such sums are equal only corner by corner;
    so the corners of all boxes, by their signs, must leave those of the shape. Axes that no box cuts do not count.
    """
    cut = [axis for axis, size in enumerate(shape) if any(lengths[axis] != size for _, lengths in boxes)]
    if not cut or len(cut) > MAX_CUT_AXES:
        return len(boxes) == 1 or not math.prod(shape)
    corners: Counter[tuple[int, ...]] = Counter()
    for sign, whole in ((1, boxes), (-1, [((0,) * len(shape), shape)])):
        for starts, lengths in whole:
            for ends in itertools.product((0, 1), repeat=len(cut)):
                at = tuple(starts[axis] + end * lengths[axis] for axis, end in zip(cut, ends, strict=True))
                corners[at] += -sign if sum(ends) % 2 else sign
    return not any(corners.values())


def part(storage: Storage, offset: int, count: int) -> Storage:
    """Take a range of bytes out of a storage, without reading where that can be avoided."""
    if offset < 0 or count < 0 or offset + count > storage.nbytes:
        raise FormatError(
            f"expected {count} bytes at offset {offset} of a storage of {storage.nbytes}",
            reason="truncated",
            advice="copy or download it again",
        )
    if offset == 0 and count == storage.nbytes:
        return storage
    if isinstance(storage, FileSpan):
        return FileSpan(storage.file, storage.offset + offset, count)
    if isinstance(storage, Memory):
        return Memory(memoryview(storage.data).cast("B")[offset : offset + count])
    if isinstance(storage, Inflated):
        return replace(storage, offset=storage.offset + offset, nbytes=count)
    if isinstance(storage, Divisible):
        return storage.part(offset, count)
    return Produced(count, lambda: memoryview(read(storage))[offset : offset + count])


def is_contiguous(shape: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether these strides are row-major without gaps; axes of length one may have any stride."""
    expected = 1
    for length, step in zip(reversed(shape), reversed(stride), strict=True):
        if length != 1 and step != expected:
            return False
        expected *= length
    return True


def inside(root: Path, name: str, namer: Path) -> Path:
    """Find the file that a checkpoint names, refusing one that leaves the checkpoint's folder.

    A link may lead to where the naming file itself leads: the Hugging Face cache links all files of a model into its blobs.

    Args:
        root: the checkpoint's folder.
        name: a path below it, as the checkpoint gives it.
        namer: the file that gives it.
    """
    parts = Path(name).parts if "\x00" not in name and "\\" not in name else ()
    place = root / name if parts and ".." not in parts and not Path(name).is_absolute() else None
    if place is not None:
        homes = {root.resolve(), namer.resolve().parent}
        target = place.resolve()
        if any(target.is_relative_to(home) for home in homes):
            return place
    raise FormatError(
        f"{root}: names the file '{one_line(name, 80)}' outside its own folder", reason="hostile", advice="do not load this checkpoint"
    )
