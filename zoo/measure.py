"""The measure of a tensor: its BLAKE3 hash and the statistics of its values, taken in one pass over its bytes."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from weightspace import dtypes, identity
from weightspace.checkpoint import TensorInfo
from weightspace.dtypes import Bytes, DType
from weightspace.errors import FormatError
from weightspace.storage import FileSpan, Storage, read
from weightspace.zoo.moments import ROW, Moments, Statistics, segments, weighted

__all__ = ["Measure", "Statistics", "measure", "measure_many"]

BLOCK = 1 << 20  # bytes of a decoded block: with its scratch it stays in cache, and the cost of a call is small beside it
_BATCH = 1 << 14  # elements of small tensors measured together: as float64, with what is made of them, they stay in cache
_BATCHED = frozenset(name for name, kind in dtypes.DTYPES.items() if kind.bits >= 16 and kind.kind in ("float", "int", "uint"))
_PAIRS = 1 << 16  # codes from which on a histogram of pairs of them is worth its size


@dataclass(frozen=True)
class Measure:
    """A tensor's identity and the statistics of its values."""

    hash: bytes
    statistics: Statistics


@runtime_checkable
class _Meter(Protocol):
    """What turns a tensor's bytes, coming in whole elements, into statistics."""

    def add(self, raw: Bytes) -> None:
        """Take in the next bytes."""

    def statistics(self) -> Statistics:
        """Sum up."""


def measure(info: TensorInfo, storage: Storage) -> Measure:
    """Hash a tensor and take its statistics in one pass, block by block.

    Moments are float64; inside a block of float32 or narrower they are float32, good to six digits, at worst five. Integers of
    64 bits beyond 2**53 are rounded to float64. Complex tensors have counts only; quantised ones are expanded when the
    gguf package is there, and have no statistics when it is not.

    Args:
        info: what the header says of the tensor.
        storage: where its bytes lie.

    Returns:
        The hash, the same as in `Checkpoint.tensor_hashes`, and the statistics.

    Raises:
        FormatError: the bytes are gone or damaged.

    Example:
        >>> from weightspace.storage import Memory
        >>> measure(TensorInfo("b", "F32", (2,)), Memory(bytes(8))).statistics.num_zero
        2
    """
    kind = dtypes.dtype(info.dtype)
    unit = _unit(kind)
    size = max(_block_bytes(kind) // unit, 1) * unit
    hasher, meter = identity.tensor_hasher(info.dtype, info.shape), _meter(kind, info.numel)
    with np.errstate(all="ignore"):  # a signalling NaN makes even a comparison warn
        for block in _whole(storage.blocks(size), unit):
            hasher.update(block)
            meter.add(np.frombuffer(block, np.uint8))
    return Measure(hasher.digest(), meter.statistics())


def measure_many(items: Sequence[tuple[TensorInfo, Storage]]) -> list[Measure]:
    """Measure many tensors, with the same results as one by one; small ones, of any number of files, cost far less so.

    Example:
        >>> from weightspace.storage import Memory
        >>> [m.statistics.maximum for m in measure_many([(TensorInfo("n", "U8", (3,)), Memory(b"abc"))])]
        [99.0]
    """
    made: dict[int, Measure] = {}
    batch: list[int] = []
    elements = 0
    for place, (info, storage) in enumerate(items):
        count = info.numel
        if info.dtype not in _BATCHED or not 0 < count < ROW:
            made[place] = measure(info, storage)
            continue
        batch.append(place)
        elements += count
        if elements > _BATCH:
            made.update(zip(batch, _measure_batch([items[i] for i in batch]), strict=True))
            batch, elements = [], 0
    if batch:
        made.update(zip(batch, _measure_batch([items[i] for i in batch]), strict=True))
    return [made[place] for place in range(len(items))]


def _measure_batch(items: Sequence[tuple[TensorInfo, Storage]]) -> Iterator[Measure]:
    """Measure small tensors of plain dtypes: each run of neighbours is read and decoded at once, all are summed at once."""
    counts = [info.numel for info, _ in items]
    values = np.empty(sum(counts), np.float64)
    digests: list[bytes] = []
    at = 0
    for run in _runs(items):
        raw = memoryview(_read_run([storage for _, storage in run]))
        begin = 0
        for info, storage in run:
            hasher = identity.tensor_hasher(info.dtype, info.shape)
            digests.append(hasher.update(raw[begin : begin + storage.nbytes]).digest())
            begin += storage.nbytes
        decoded = dtypes.decode(np.frombuffer(raw, np.uint8), dtypes.dtype(run[0][0].dtype))
        with np.errstate(invalid="ignore"):  # a signalling NaN again
            values[at : at + decoded.size] = decoded
        at += decoded.size
    end = 0
    for digest, count, moments in zip(digests, counts, segments(values, counts), strict=True):
        end += count
        if not (math.isfinite(moments.low) and math.isfinite(moments.high)):
            moments = Moments()
            moments.add(values[end - count : end])
        yield Measure(digest, moments.statistics())


def _runs(items: Sequence[tuple[TensorInfo, Storage]]) -> Iterator[list[tuple[TensorInfo, Storage]]]:
    """Cut a sequence of tensors into runs of one dtype whose bytes follow one another in one file."""
    run: list[tuple[TensorInfo, Storage]] = []
    for info, storage in items:
        if run and not (run[-1][0].dtype == info.dtype and _follows(run[-1][1], storage)):
            yield run
            run = []
        run.append((info, storage))
    yield run


def _follows(first: Storage, second: Storage) -> bool:
    return (
        isinstance(first, FileSpan)
        and isinstance(second, FileSpan)
        and first.file is second.file
        and first.offset + first.nbytes == second.offset
    )


def _read_run(storages: Sequence[Storage]) -> bytearray:
    first, last = storages[0], storages[-1]
    if isinstance(first, FileSpan) and isinstance(last, FileSpan):
        return read(FileSpan(first.file, first.offset, last.offset + last.nbytes - first.offset))
    return read(first)


class _Numbers:
    """Numbers of 16 bits and more: decoded block by block, summed as they are."""

    def __init__(self, kind: DType) -> None:
        self._kind, self._moments = kind, Moments()
        self._widen = _WIDEN.get(kind.name, None)

    def add(self, raw: Bytes) -> None:
        fast = self._widen is not None and raw.size >= 2 * ROW and raw.size % 4 == 0
        self._moments.add(self._widen(raw) if fast and self._widen else dtypes.decode(raw, self._kind))

    def statistics(self) -> Statistics:
        return self._moments.statistics()


class _Codes:
    """Numbers of 8 bits and fewer: how often each code stands says all, exactly."""

    def __init__(self, kind: DType, count: int) -> None:
        self._kind, self._left = kind, count
        self._counts = np.zeros(256, np.int64)

    def add(self, raw: Bytes) -> None:
        codes = dtypes.codes(raw, self._kind)[: self._left]  # a last byte may be padded
        self._left -= codes.size
        if codes.size >= _PAIRS:
            pairs = np.bincount(codes[: codes.size // 2 * 2].view(np.uint16), minlength=1 << 16).reshape(256, 256)
            self._counts += pairs.sum(axis=0) + pairs.sum(axis=1)
            codes = codes[codes.size // 2 * 2 :]
        self._counts += np.bincount(codes, minlength=256)

    def statistics(self) -> Statistics:
        table = _code_values(self._kind)
        return weighted(table, self._counts[: table.size]).statistics()


class _Complex:
    """Complex numbers: only counted."""

    def __init__(self, kind: DType) -> None:
        self._kind, self._moments = kind, Moments()

    def add(self, raw: Bytes) -> None:
        values = dtypes.decode(raw, self._kind)
        nan = np.isnan(values)
        self._moments.zeros += int(np.count_nonzero(values == 0))
        self._moments.nans += int(np.count_nonzero(nan))
        self._moments.infs += int(np.count_nonzero(np.isinf(values) & ~nan))

    def statistics(self) -> Statistics:
        return self._moments.statistics()


class _Blocks:
    """Quantised blocks: expanded where the package that knows them is there."""

    def __init__(self, kind: DType) -> None:
        self._kind, self._moments = kind, Moments()
        self._known = kind.block is not None

    def add(self, raw: Bytes) -> None:
        if not self._known:
            return
        try:
            self._moments.add(dtypes.decode(raw, self._kind))
        except (ImportError, FormatError):  # no package, or one that does not know this format
            self._known = False

    def statistics(self) -> Statistics:
        return self._moments.statistics() if self._known else Statistics(None, None, None)


def _meter(kind: DType, count: int) -> _Meter:
    if kind.kind == "quantized":
        return _Blocks(kind)
    if kind.kind == "complex":
        return _Complex(kind)
    return _Codes(kind, count) if kind.bits <= 8 else _Numbers(kind)


def _unit(kind: DType) -> int:
    """Bytes that must stay together: one element, one quantised block, or the codes that share bytes."""
    if kind.block is not None:
        return kind.block[1]
    return int(kind.bits) // 8 if kind.bits >= 8 else int(kind.bits) // 2  # two 4-bit codes a byte, four 6-bit codes three


def _block_bytes(kind: DType) -> int:
    """Bytes to read at a time: decoded, a block takes `BLOCK` bytes, which with its scratch stays in cache."""
    narrow = kind.kind == "quantized" or (kind.kind == "float" and kind.bits <= 32)
    return BLOCK if kind.bits <= 8 and kind.block is None else int(BLOCK * kind.bits / (32 if narrow else max(kind.bits, 64)))


def _whole(blocks: Iterable[memoryview], unit: int) -> Iterator[memoryview]:
    """Pass blocks on with a whole number of units in each; storages of several pieces may cut anywhere."""
    rest = b""
    for block in blocks:
        if rest or len(block) % unit:
            joined = rest + bytes(block)
            cut = len(joined) // unit * unit
            block, rest = memoryview(joined)[:cut], joined[cut:]
        yield block
    if rest:
        yield memoryview(rest)


def _code_values(kind: DType) -> npt.NDArray[np.float32]:
    """Tabulate the value of every code of a type of 8 bits or fewer."""
    table = dtypes.value_table(kind.name)
    if table is not None:
        return table
    every = np.arange(256, dtype=np.uint8)
    return (every > 0 if kind.kind == "bool" else dtypes.decode(every, kind)).astype(np.float32)


def _widen_bf16(raw: Bytes) -> npt.NDArray[np.float32]:
    """Decode bfloat16 in another order, which sums do not mind: first each word's low halves, then the high ones."""
    words = raw.view(np.uint32)
    bits = np.empty(words.size * 2, np.uint32)
    np.left_shift(words, np.uint32(16), out=bits[: words.size])
    np.bitwise_and(words, np.uint32(0xFFFF0000), out=bits[words.size :])
    return bits.view(np.float32)


def _widen_f16(raw: Bytes) -> npt.NDArray[np.float32]:
    """Decode float16 in that same order: its bits, moved into a float32's places, are the value times 2**-112."""
    values = _widen_bf16(raw)
    np.right_shift(values.view(np.int32), np.int32(3), out=values.view(np.int32))
    np.bitwise_and(values.view(np.uint32), np.uint32(0x8FFFE000), out=values.view(np.uint32))
    np.multiply(values, np.float32(2.0**112), out=values)
    if values.max() > 65504 or values.min() < -65504:  # the top exponent: infinite or NaN, which only a real decoder tells
        return raw.view(np.float16).astype(np.float32)
    return values


_WIDEN: dict[str, Any] = {"BF16": _widen_bf16, "F16": _widen_f16}
