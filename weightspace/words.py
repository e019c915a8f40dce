"""Tensors as words: unsigned numbers of the size of an element, whose differences are exact whatever the elements mean."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from weightspace import dtypes
from weightspace.checkpoint import TensorInfo
from weightspace.storage import Storage

CASTS = frozenset({"F64", "F32", "F16", "BF16"})  # dtypes that are rounded to one another, so that nearness of values shows

Words = npt.NDArray[np.unsignedinteger[Any]]


def word_size(one: TensorInfo) -> int:
    """Count the bytes of the words that a tensor is taken as; packed and quantised types go byte by byte."""
    kind = dtypes.dtype(one.dtype)
    bits = kind.bits // 2 if kind.kind == "complex" else kind.bits
    return int(bits) // 8 if bits in (16, 32, 64) else 1


def words_of(block: memoryview, size: int) -> Words:
    """Take bytes as words of a size."""
    return np.frombuffer(block, f"<u{size}")


def folded(differences: Words) -> Words:
    """Interleave: 0, -1, 1, -2, ... become 0, 1, 2, 3, ..."""
    made: Words = (differences << 1) ^ np.negative(differences >> (8 * differences.itemsize - 1))
    return made


def unfolded(folded: Words) -> Words:
    """Undo `folded`."""
    made: Words = (folded >> 1) ^ np.negative(folded & 1)
    return made


def cut(storage: Storage, size: int) -> Iterator[memoryview]:
    """Cut a storage into blocks of exactly this size, but for the last."""
    buffer, filled = memoryview(bytearray(min(size, storage.nbytes))), 0
    for given in storage.blocks():
        block = given
        while len(block):
            taken = block[: len(buffer) - filled]
            buffer[filled : filled + len(taken)] = taken
            filled, block = filled + len(taken), block[len(taken) :]
            if filled == len(buffer):
                yield buffer
                filled = 0
    if filled:
        yield buffer[:filled]


def near_words(storage: Storage, stored: TensorInfo, wanted: TensorInfo, block_size: int) -> Iterator[Words]:
    """Read what a tensor's words should be near: those of another tensor, or of its values where it has another dtype.

    Args:
        storage: of the other tensor.
        stored: what that is, of the same shape.
        wanted: whose words these should be near.
        block_size: bytes that each block of the words takes, but for the last.
    """
    size = word_size(wanted)
    for block in cut(storage, block_size // size * word_size(stored)):
        if stored.dtype == wanted.dtype:
            yield words_of(block, size)
        else:
            yield rounded(dtypes.decode(np.frombuffer(block, np.uint8), dtypes.dtype(stored.dtype)), wanted.dtype)


def rounded(values: npt.NDArray[np.floating[Any]], dtype: str) -> Words:
    """Round values to the nearest of another dtype and take their words; what is not finite becomes 0, for machines differ on it."""
    with np.errstate(all="ignore"):
        finite = np.where(np.isfinite(values), values, 0)
        if dtype != "BF16":
            return finite.astype(dtypes.dtype(dtype).numpy).view(f"<u{int(dtypes.dtype(dtype).bits) // 8}")
        bits: Words = finite.astype("<f4").view("<u4")
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
