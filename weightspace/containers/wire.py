"""The protobuf wire format, walked in place: fields with their ranges in a file, every length checked, nothing copied."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from weightspace.errors import FormatError
from weightspace.storage import SourceFile

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
WINDOW = 1 << 16
MAX_FIELDS = 5_000_000  # some seconds of walking; a graph of ten thousand nodes has a few hundred thousand


class Field(NamedTuple):
    """One field of a message.

    Attributes:
        number: which field.
        kind: its wire type, one of VARINT, FIXED64, BYTES and FIXED32.
        value: a varint's value, unsigned; zero for the other kinds.
        start: first byte of its payload in the file.
        end: the byte after its payload.
    """

    number: int
    kind: int
    value: int
    start: int
    end: int


@dataclass
class Message:
    """A reader of one file of nested messages; keeps a window of it, so that walking forward reads each part once."""

    file: SourceFile

    def __post_init__(self) -> None:
        self._window, self._at, self._count = b"", 0, 0

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """Walk the fields of the message between two offsets; payloads are skipped, not read.

        Raises:
            FormatError: a field that reaches beyond its message, a wire type that does not exist, absurdly many fields.
        """
        at = start
        while at < end:
            self._count += 1
            if self._count > MAX_FIELDS:
                raise FormatError(
                    f"{self.file.path}: more than {MAX_FIELDS} protobuf fields", reason="hostile", advice="do not load this file"
                )
            tag, at = self._varint(at, end)
            number, kind, value, begin = tag >> 3, tag & 7, 0, at
            if kind == VARINT:
                value, at = self._varint(at, end)
            elif kind == BYTES:
                length, begin = self._varint(at, end)
                at = begin + length
            elif kind == FIXED64:
                at += 8
            elif kind == FIXED32:
                at += 4
            else:
                raise self._damaged(f"wire type {kind}", begin)
            if number == 0 or at > end:
                raise self._damaged(f"field {number} of {at - begin} bytes in a message with {end - begin} left", begin)
            yield Field(number, kind, value, begin, at)

    def text(self, field: Field, limit: int = 1 << 16) -> str:
        """Read a string field.

        Raises:
            FormatError: it is longer than `limit`, or not UTF-8.
        """
        if field.kind != BYTES or field.end - field.start > limit:
            raise self._damaged(f"a string of {field.end - field.start} bytes, expected at most {limit}", field.start)
        try:
            return self.bytes(field.start, field.end).decode("utf-8")
        except UnicodeDecodeError:
            raise self._damaged("a string that is not UTF-8", field.start) from None

    def bytes(self, start: int, end: int) -> bytes:
        """Read a range, from the window where it lies inside."""
        inside = start - self._at
        if 0 <= inside and end - self._at <= len(self._window):
            return self._window[inside : inside + end - start]
        return self.file.read(start, end - start)

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 70:
            inside = at - self._at
            if not 0 <= inside < len(self._window):
                self._window, self._at, inside = self.file.read(at, min(WINDOW, self.file.size - at)), at, 0
            byte = self._window[inside]
            value |= (byte & 127) << shift
            at, shift = at + 1, shift + 7
            if byte < 128:
                return value & (1 << 64) - 1, at
        raise self._damaged("a number without an end", at)

    def _damaged(self, what: str, at: int) -> FormatError:
        reason = "truncated" if at >= self.file.size else "corrupt"
        return FormatError(
            f"{self.file.path}: its protobuf is damaged at byte {at} ({what})", reason=reason, advice="copy or download it again"
        )


def signed(value: int) -> int:
    """Read an unsigned varint as the signed 64-bit number that it stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value
