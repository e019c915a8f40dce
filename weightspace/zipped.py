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
