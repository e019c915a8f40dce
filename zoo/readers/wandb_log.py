"""Weights & Biases' transaction log, `run-<id>.wandb`: LevelDB framing around protobuf records, read without either library."""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from weightspace.errors import RecordError

MAGIC = b":W&B"
HEADER = 7  # bytes before the first record: the magic, a check number and the version
BLOCK = 32768
MAX_RECORD = 64 << 20

Field = tuple[int, int | bytes]

_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


def records(path: Path) -> Iterator[bytes]:
    """Yield the payloads of a log in order; a last one that is cut off is left out, as in a run that was killed.

    Raises:
        RecordError: no such log, or bytes whose checksum does not fit; the records before were yielded.
    """
    with path.open("rb") as stream:
        if stream.read(HEADER)[:4] != MAGIC:
            raise RecordError(f"{path}: expected a Weights & Biases log, which begins with ':W&B'; name the run's folder")
        stream.seek(0)
        parts: list[bytes] | None = None
        size, start, offset = 0, 0, HEADER
        for block in iter(lambda: stream.read(BLOCK), b""):
            while offset + 7 <= len(block):
                checksum, length, kind = struct.unpack_from("<IHB", block, offset)
                if kind == 0 and length == 0 and checksum == 0:
                    break  # zeros to the end of the block
                chunk = block[offset + 7 : offset + 7 + length]
                if len(chunk) < length and len(block) < BLOCK:
                    return
                if len(chunk) < length or checksum not in _checksums(block[offset + 6 : offset + 7 + length]):
                    raise RecordError(f"{path}: damaged at byte {start + offset}; the records before it were read")
                offset += 7 + length
                if kind in (_FULL, _FIRST):
                    parts, size = [], 0
                elif kind not in (_MIDDLE, _LAST) or parts is None:
                    raise RecordError(f"{path}: a piece of a record without its beginning; the records before it were read")
                parts.append(chunk)
                size += length
                if size > MAX_RECORD:
                    raise RecordError(f"{path}: a record of more than {MAX_RECORD} bytes; the records before it were read")
                if kind in (_FULL, _LAST):
                    yield b"".join(parts)
                    parts = None
            start, offset = start + len(block), 0


def _checksums(data: bytes) -> tuple[int, int]:
    """The CRC of kind and chunk: plain, as the Python writer put it, and masked, as LevelDB does."""
    plain = zlib.crc32(data)
    return plain, (((plain >> 15) | (plain << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def fields(message: bytes) -> Iterator[Field]:
    """Yield field number and value of a protobuf message: integers as they are coded, everything else as bytes.

    Raises:
        RecordError: not a message; nothing is read beyond its end.
    """
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise RecordError(f"expected a protobuf message, found wire type {wire}; the log is damaged")
        if length > end - at:
            raise RecordError(f"a protobuf field claims {length} bytes of {end - at}; the log is damaged")
        yield number, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
    raise RecordError("a protobuf number has no end; the log is damaged")
