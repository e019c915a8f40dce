"""Codes of a few bits, laid one after the other into bytes."""

import numpy as np
import numpy.typing as npt

_PIECE = 1 << 16  # codes at a time; a multiple of eight, so that every piece but the last fills its bytes

Codes = npt.NDArray[np.uint16]


def packed_size(count: int, bits: int) -> int:
    """Bytes that some codes take."""
    return -(-count * bits // 8)


def pack(codes: Codes, bits: int) -> bytes:
    """Lay codes one after the other, the highest bit first; what is left of the last byte is zero.

    Example:
        >>> pack(np.array([1, 2, 3], np.uint16), 4).hex()
        '1230'
    """
    shifts = np.arange(bits - 1, -1, -1, dtype=np.uint16)
    pieces = (codes[start : start + _PIECE, None] >> shifts & 1 for start in range(0, len(codes), _PIECE))
    return b"".join(np.packbits(piece.astype(np.uint8)).tobytes() for piece in pieces)


def unpack(raw: bytes | bytearray, bits: int, count: int) -> Codes:
    """Take codes out of bytes; the inverse of `pack`.

    Example:
        >>> unpack(bytes.fromhex("1230"), 4, 3)
        array([1, 2, 3], dtype=uint16)
    """
    made = np.empty(count, np.uint16)
    step, values = _PIECE * bits // 8, 1 << np.arange(bits - 1, -1, -1, dtype=np.uint16)
    for start in range(0, count, _PIECE):
        piece = np.frombuffer(raw, np.uint8)[start * bits // 8 :][:step]
        size = min(_PIECE, count - start)
        made[start : start + size] = np.unpackbits(piece, count=size * bits).reshape(size, bits).astype(np.uint16) @ values
    return made
