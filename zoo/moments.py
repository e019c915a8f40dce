"""Moments of many numbers taken block by block: counts, extremes, norms and central moments up to the fourth, without cancellation."""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]

ROW = 1 << 13  # elements of one dot product: short enough for seven good digits in float32, and for BLAS to stay on one thread
# Largest distances from the centre whose fourth powers, summed, neither vanish nor overflow.
_SAFE = {"float32": (1e-8, 1e8), "float64": (1e-70, 1e70)}
_TINY = 1e-280  # sums of squares below it have lost digits to underflow, unless they are exactly zero


_ONES = {kind: np.ones(ROW, kind) for kind in _SAFE}


class _Scratch(threading.local):
    """Buffers of one thread that every block reuses: a fresh array per step costs more than the arithmetic in it."""

    def __init__(self) -> None:
        self._buffers: dict[str, tuple[npt.NDArray[Any], ...]] = {}

    def __call__(self, kind: str, count: int) -> tuple[npt.NDArray[Any], ...]:
        """Lend two buffers of a float type and one of booleans, all of this length."""
        held = self._buffers.get(kind, ())
        if not held or held[0].size < count:
            held = self._buffers[kind] = (np.empty(count, kind), np.empty(count, kind), np.empty(count, np.bool_))
        return tuple(buffer[:count] for buffer in held)


_scratch = _Scratch()


@dataclass(frozen=True)
class Statistics:
    """What is known of a tensor's values; all but the counts are over its finite elements, and None where undefined.

    Attributes:
        num_zero: elements that are zero, of either sign.
        num_nan: elements that are not a number.
        num_inf: elements that are infinite and not NaN (a complex number may be both).
        minimum: smallest element.
        maximum: largest element.
        mean: arithmetic mean.
        std: population standard deviation.
        l1: sum of absolute values.
        l2: square root of the sum of squares.
        skewness: third standardised moment; None for constants.
        kurtosis: fourth standardised moment, 3 for a normal distribution; None for constants.
    """

    num_zero: int | None
    num_nan: int | None
    num_inf: int | None
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    l1: float | None = None
    l2: float | None = None
    skewness: float | None = None
    kurtosis: float | None = None


@dataclass(slots=True)
class Moments:
    """Sums over the numbers seen so far; `m2`, `m3` and `m4` are sums of powers of the distance from the mean."""

    count: int = 0
    zeros: int = 0
    low: float = math.inf
    high: float = -math.inf
    mean: float = 0.0
    m2: float = 0.0
    m3: float = 0.0
    m4: float = 0.0
    l1: float = 0.0
    squares: float = 0.0
    nans: int = 0
    infs: int = 0

    def add(self, values: npt.NDArray[Any]) -> None:
        """Take in a block of real numbers of any type; float32 is the fast case."""
        if not values.size:
            return
        with np.errstate(all="ignore"):
            low, high = float(np.minimum.reduce(values)), float(np.maximum.reduce(values))
            if not (math.isfinite(low) and math.isfinite(high)):
                self.nans += int(np.count_nonzero(np.isnan(values)))
                self.infs += int(np.count_nonzero(np.isinf(values)))
                self.add(values[np.isfinite(values)])
                return
            made = None
            if values.size >= ROW:
                made = _powers(values, low, high) if values.dtype == np.float32 else None
                made = made or _powers(values.astype(np.float64), low, high)
            self.merge(made or segments(values.astype(np.float64), [values.size])[0])

    def merge(self, other: "Moments") -> None:
        """Take in moments of other numbers.

        Pébay, "Formulas for robust, one-pass parallel computation of covariances and arbitrary-order statistical
        moments" (SAND2008-6212), equations 2.1 to 2.4.
        """
        self.nans, self.infs = self.nans + other.nans, self.infs + other.infs
        if not other.count:
            return
        a, b = float(self.count), float(other.count)
        n, gap = a + b, other.mean - self.mean if self.count else 0.0
        step = gap / n
        self.m4 += (
            other.m4
            + gap * step * step * step * a * b * (a * a - a * b + b * b)
            + 6 * step * step * (a * a * other.m2 + b * b * self.m2)
            + 4 * step * (a * other.m3 - b * self.m3)
        )
        self.m3 += other.m3 + gap * step * step * a * b * (a - b) + 3 * step * (a * other.m2 - b * self.m2)
        self.m2 += other.m2 + gap * step * a * b
        self.mean = self.mean + b * step if self.count else other.mean
        self.count += other.count
        self.zeros += other.zeros
        self.l1 += other.l1
        self.squares += other.squares
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)

    def statistics(self) -> Statistics:
        """Sum up; what overflowed or lost its digits in float64 is None, never NaN or infinite."""
        if not self.count:
            return Statistics(self.zeros, self.nans, self.infs)
        std = skewness = kurtosis = None
        variance = max(self.m2, 0.0) / self.count
        if self.low == self.high:
            std = 0.0
        elif _TINY < variance < math.inf:
            std = math.sqrt(variance)
            if variance * variance > _TINY:
                skewness = _finite(self.m3 / self.count / variance / std)
                kurtosis = _finite(self.m4 / self.count / variance / variance)
        exact = self.squares > _TINY or self.low == self.high == 0
        return Statistics(
            self.zeros,
            self.nans,
            self.infs,
            self.low + 0.0,  # -0.0 becomes 0.0, whichever of the two came first
            self.high + 0.0,
            _finite(self.mean),
            std,
            _finite(self.l1),
            _finite(math.sqrt(self.squares)) if exact else None,
            skewness,
            kurtosis,
        )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _dot(a: Floats, b: Floats | None = None) -> float:
    """Sum products, or one factor alone, along rows of `ROW` elements in their own precision, and the rows in float64."""
    whole, ones = a.size // ROW * ROW, _ONES[a.dtype.name]
    rows = a[:whole].reshape(-1, ROW)
    total: float = sum(np.vecdot(rows, ones if b is None else b[:whole].reshape(-1, ROW)).tolist())
    return total if whole == a.size else total + float(np.dot(a[whole:], ones[: a.size - whole] if b is None else b[whole:]))


def _powers(values: Floats, low: float, high: float) -> Moments | None:
    """Take the moments of finite numbers in their own precision by dot products; None where their range is beyond it."""
    count, (least, most) = values.size, _SAFE[values.dtype.name]
    if low == high:
        zeros = 0 if low else count
        return Moments(count, zeros, low, high, mean=low, l1=abs(low) * count, squares=low * low * count)
    if not least < max(-low, high) < most:
        return None
    a, b, mask = _scratch(values.dtype.name, count)
    zeros = int(np.count_nonzero(np.equal(values, 0, out=mask))) if low <= 0 <= high else 0
    l1 = _dot(np.abs(values, out=a))
    s1, s2 = _dot(values), _dot(values, values)
    squares, centre, distance = s2, 0.0, values
    if s1 * s1 > 0.1 * count * s2:  # far from zero against its spread: powers of the values themselves would cancel
        centre = float(values.dtype.type(s1 / count))
        if not least < max(high - centre, centre - low) < most:
            return None
        distance = np.subtract(values, values.dtype.type(centre), out=b)
        s1, s2 = _dot(distance), _dot(distance, distance)
    square = np.multiply(distance, distance, out=a)
    s3, s4 = _dot(square, distance), _dot(square, square)
    shift = s1 / count
    return Moments(
        count=count,
        zeros=zeros,
        low=low,
        high=high,
        mean=centre + shift,
        m2=s2 - shift * s1,
        m3=s3 - 3 * shift * s2 + 2 * shift * shift * s1,
        m4=s4 - 4 * shift * s3 + 6 * shift * shift * s2 - 3 * shift * shift * shift * s1,
        l1=l1,
        squares=squares,
    )


def segments(values: npt.NDArray[np.float64], lengths: Sequence[int]) -> list[Moments]:
    """Take the moments of each of several runs of numbers that lie one after another, in float64.

    A run with a number that is not finite has infinite or NaN moments.

    Args:
        values: the numbers of all runs.
        lengths: how many numbers each run has; none has zero.
    """
    counts = np.array(lengths, np.intp)
    starts = np.cumsum(counts) - counts
    with np.errstate(all="ignore"):
        low, high = np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)
        mean = np.where(low == high, low, np.add.reduceat(values, starts) / counts)
        distance = values - np.repeat(mean, counts)
        square = distance * distance
        columns = (
            np.add.reduceat(values == 0, starts, dtype=np.intp),
            low,
            high,
            mean,
            np.add.reduceat(square, starts),
            np.add.reduceat(square * distance, starts),
            np.add.reduceat(square * square, starts),
            np.add.reduceat(np.abs(values), starts),
            np.add.reduceat(values * values, starts),
        )
    return [Moments(*row) for row in zip(lengths, *(column.tolist() for column in columns), strict=True)]


def weighted(values: npt.NDArray[np.float32], counts: npt.NDArray[np.int64]) -> Moments:
    """Take the moments of numbers of which only few different ones exist: each value with how often it stands."""
    made = Moments()
    present = counts > 0
    values, counts = values[present].astype(np.float64), counts[present]
    made.nans, made.infs = int(counts[np.isnan(values)].sum()), int(counts[np.isinf(values)].sum())
    finite = np.isfinite(values)
    values, counts = values[finite], counts[finite]
    if not values.size:
        return made
    made.count, made.zeros = int(counts.sum()), int(counts[values == 0].sum())
    made.low, made.high = float(values.min()), float(values.max())
    made.mean = math.fsum(values * counts) / made.count if made.low < made.high else made.low
    distance = values - made.mean
    made.m2, made.m3, made.m4 = (math.fsum(distance**power * counts) for power in (2, 3, 4))
    made.l1, made.squares = math.fsum(np.abs(values) * counts), math.fsum(values * values * counts)
    return made
