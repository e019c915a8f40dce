"""Ranges of the members of a zip archive as storages: stored ones lie in the file, deflated ones are expanded block by block."""

import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from weightspace.archive import STORED, Archive
from weightspace.errors import FormatError, one_line
from weightspace.storage import BLOCK, FileSpan, Storage

LOCAL_HEADER = b"PK\x03\x04"


def first_name(head: bytes) -> str | None:
    """Read the name of the first member from the first bytes of a file; None where the file is no zip archive."""
    if len(head) < 30 or not head.startswith(LOCAL_HEADER):
        return None
    length = int.from_bytes(head[26:28], "little")
    return head[30 : 30 + length].decode("utf-8", "replace") if len(head) >= 30 + length else None


@dataclass(frozen=True)
class Inflated:
    """A range of what a deflated run of bytes expands to, without a second look at the archive's directory.

    Attributes:
        packed: the deflated bytes.
        size: bytes that they expand to.
        offset: first expanded byte that is wanted.
        nbytes: how many are wanted.
    """

    packed: FileSpan
    size: int
    offset: int
    nbytes: int

    def blocks(self, size: int = BLOCK) -> Iterator[memoryview]:
        """Expand from the beginning and drop what lies before the range."""
        at, end = 0, self.offset + self.nbytes
        for block in self._expanded(size):
            wanted = memoryview(block)[max(0, self.offset - at) : max(0, end - at)]
            at += len(block)
            if len(wanted):
                yield wanted
            if at >= end and end < self.size:
                return
        if at != self.size:
            raise FormatError(
                f"{self.packed.file.path}: a compressed member of {self.size} bytes expands to {'more' if at > self.size else at}",
                reason="hostile" if at > self.size else "truncated",
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


def part_of(archive: Archive, name: str, offset: int, count: int) -> Storage:
    """Take a range of a member's expanded bytes, without reading them.

    Raises:
        FormatError: the member is shorter.
    """
    member = archive[name]
    if offset < 0 or count < 0 or offset + count > member.size:
        raise FormatError(
            f"{archive.file.path}: member '{one_line(name, 80)}' has {member.size} bytes, expected {count} at offset {offset}",
            reason="truncated",
            advice="copy or download it again",
        )
    if member.method == STORED:
        return FileSpan(archive.file, member.offset + offset, count)
    return Inflated(FileSpan(archive.file, member.offset, member.packed), member.size, offset, count)


class SpanFile(io.RawIOBase):
    """A range of bytes of a file as a file of its own, for libraries that read from file objects."""

    def __init__(self, path: Path, offset: int, nbytes: int) -> None:
        """Open the file; reading starts at `offset`."""
        self._stream = path.open("rb", buffering=0)
        self._offset, self._nbytes, self._at = offset, nbytes, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move inside the range."""
        self._at = max(0, {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._nbytes}[whence] + offset)
        return self._at

    def readinto(self, buffer: "memoryview[int] | bytearray") -> int:  # type: ignore[override]
        """Read what is left of the range, at most as much as the buffer holds."""
        view = memoryview(buffer)[: max(0, self._nbytes - self._at)]
        self._stream.seek(self._offset + self._at)
        got = self._stream.readinto(view) or 0
        self._at += got
        return got

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
        super().close()
