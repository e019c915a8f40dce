"""Histograms of weights, from a bounded sample of a tensor's elements."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from weightspace import dtypes
from weightspace.checkpoint import TensorInfo
from weightspace.storage import Storage, part, read

SAMPLE = 1 << 14  # elements looked at: enough for a dozen bins, and a few reads even in a tensor of gigabytes
_PIECES = 16
_UNIT = 48  # bytes: a whole number of elements of every dtype that is sampled, six-bit ones too


@dataclass(frozen=True)
class Histogram:
    """How a tensor's values are spread.

    Attributes:
        low: left edge of the first bin: all but a two-hundredth of the values lie above it, and the rest in the first bin.
        high: right edge of the last bin, likewise.
        counts: sampled values in each bin, all of one width.
    """

    low: float
    high: float
    counts: tuple[int, ...]


def sample(info: TensorInfo, storage: Storage) -> npt.NDArray[np.float64]:
    """Read up to `SAMPLE` elements, in pieces spread evenly over the tensor; only finite ones are returned.

    Complex and quantised tensors give none.

    Raises:
        FormatError: the bytes are gone or damaged.

    Example:
        >>> from weightspace.storage import Memory
        >>> sample(TensorInfo("b", "U8", (3,)), Memory(b"abc"))
        array([97., 98., 99.])
    """
    kind = dtypes.dtype(info.dtype)
    if kind.kind in ("complex", "quantized") or info.numel == 0:
        return np.empty(0)
    if info.numel <= SAMPLE:
        raw = [read(storage)]
    else:
        length = -(-SAMPLE * int(kind.bits) // 8 // _PIECES // _UNIT) * _UNIT
        starts = np.linspace(0, storage.nbytes - length, _PIECES).astype(np.int64) // _UNIT * _UNIT
        raw = [read(part(storage, int(start), length)) for start in starts]
    with np.errstate(invalid="ignore"):  # a signalling NaN warns when it is converted
        values = np.concatenate([dtypes.decode(np.frombuffer(piece, np.uint8), kind) for piece in raw])[: info.numel].astype(np.float64)
    return values[np.isfinite(values)]


def histogram(samples: Sequence[npt.NDArray[np.float64]], bins: int = 12) -> Histogram | None:
    """Count samples of one or several tensors in bins; None where there are fewer than two values.

    Outliers, a two-hundredth of the values at either end, fall into the outermost bins, so that one of them does not
    squeeze all others into a single bin.
    """
    values = np.concatenate(samples) if samples else np.empty(0)
    if values.size < 2:
        return None
    low, high = (float(edge) for edge in np.quantile(values, [0.005, 0.995], method="nearest"))
    if low == high or not np.isfinite(high - low):
        return Histogram(low, high, (0,) * (bins // 2) + (values.size,) + (0,) * (bins - bins // 2 - 1))
    # Not np.histogram, which refuses ranges as small as those of tiny weights.
    at = np.minimum((np.clip(values, low, high) - low) / (high - low) * bins, bins - 1).astype(np.int64)
    return Histogram(low, high, tuple(int(one) for one in np.bincount(at, minlength=bins)))
