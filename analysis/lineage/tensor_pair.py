"""One tensor in two models: what of the one is still in the other, element by element."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

ENERGY = 1 - 1e-5  # of a difference that its leading directions have to hold
WIDEST = 64  # rank that is looked for in large matrices
STILL = 0.02  # share of the elements that have to have one ratio before it counts
_FEW, _WINDOW = 16, 1e-4
CHANCE = 40.0  # logarithm of how many orders rows have to have, so that the right one is no chance

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class TensorPair:
    """Numbers about one tensor in a first and a second model.

    Attributes:
        shape: in the first.
        first, second, inner: sums of squares and inner product.
        apart: sum of squares of the difference.
        is_equal: whether all elements are equal.
        first_rounded, second_rounded: whether the one is a non-decreasing function of the other, of the whole tensor or by row, as
            rounding makes it, and has no more values.
        first_pruned, second_pruned: whether the one is zero in more places, and elsewhere equal to the other.
        zeros_kept: (first in second, second in first): share of zeros of the one that are zero in the other; NaN where it has none.
        rank: directions that hold the difference's energy, and how many there could be; (0, 0) for what is no matrix.
        values: how many distinct ones each has.
        still: the ratio of second to first that most elements share, to four digits, and their share: what a training does not touch
            only decays. (1, 0) where there is none.
    """

    shape: tuple[int, ...]
    first: float
    second: float
    inner: float
    apart: float
    is_equal: bool
    first_rounded: bool = False
    second_rounded: bool = False
    first_pruned: bool = False
    second_pruned: bool = False
    zeros_kept: tuple[float, float] = (math.nan, math.nan)
    rank: tuple[int, int] = (0, 0)
    values: tuple[int, int] = (0, 0)
    still: tuple[float, float] = (1.0, 0.0)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_matrix(self) -> bool:
        """Whether at least two axes are longer than one."""
        return sum(length > 1 for length in self.shape) > 1


def compare(x: Float[np.ndarray, " elements"], y: Float[np.ndarray, " elements"], shape: tuple[int, ...]) -> TensorPair:
    """Compare a tensor of two models, both finite and of one shape."""
    difference = y - x
    apart = float(difference @ difference)
    sums = float(x @ x), float(y @ y), float(x @ y)
    if apart == 0:
        return TensorPair(shape, *sums, 0.0, bool((x == y).all()))
    values = len(np.unique(x)), len(np.unique(y))
    return TensorPair(
        shape,
        *sums,
        apart,
        False,
        values[1] >= values[0] and is_rounded(y, x, shape),
        values[0] >= values[1] and is_rounded(x, y, shape),
        is_pruned(y, x),
        is_pruned(x, y),
        (_kept(x, y), _kept(y, x)),
        _rank(difference, shape),
        values,
        _still(x, y),
    )


def is_rounded(x: Float[np.ndarray, " elements"], y: Float[np.ndarray, " elements"], shape: tuple[int, ...]) -> bool:
    """Whether y is x, rounded: a non-decreasing function of it, in the whole or by row or column.

    Any rounding is such a function: casts, even steps, code books. A small random change is not. Short rows say little each, but much together.
    """
    if _is_step_function(x[None], y[None]):
        return True
    if len(shape) < 2:
        return False
    rows, columns = (shape[0], -1), (-1, shape[-1])
    return _is_rounded_by_row(x.reshape(rows), y.reshape(rows)) or _is_rounded_by_row(x.reshape(columns).T, y.reshape(columns).T)


def _is_rounded_by_row(x: Array, y: Array) -> bool:
    """Whether in each row y is a non-decreasing function of x, where this is no chance: rows of one element always are."""
    return _is_step_function(x, y) and _orders(y) > CHANCE


def _orders(y: Array) -> float:
    """Logarithm of how many orders the elements of the rows could be in, those that tell equal elements apart left out."""
    total = len(y) * math.lgamma(y.shape[1] + 1)
    ends = np.diff(np.sort(y, axis=1), axis=1) != 0
    for row in ends:
        runs = np.diff(np.flatnonzero(np.concatenate([[True], row, [True]])))
        total -= sum(math.lgamma(run + 1) for run in runs[runs > 1].tolist())
    return total


def _is_step_function(x: Array, y: Array) -> bool:
    """Whether in each row y is a non-decreasing function of x."""
    order = np.argsort(x, axis=1, kind="stable")
    a, b = np.take_along_axis(x, order, 1), np.take_along_axis(y, order, 1)
    rise, change = np.diff(a, axis=1), np.diff(b, axis=1)
    return bool(((change >= 0) & ((change == 0) | (rise > 0))).all())


def is_pruned(x: Float[np.ndarray, " elements"], y: Float[np.ndarray, " elements"]) -> bool:
    """Whether y is x with more zeros."""
    left = y != 0
    return bool((y[left] == x[left]).all() and np.count_nonzero(x) > np.count_nonzero(left) > 0)


def _kept(x: Array, y: Array) -> float:
    zero = x == 0
    return float((y[zero] == 0).mean()) if zero.any() else math.nan


def _rank(difference: Array, shape: tuple[int, ...]) -> tuple[int, int]:
    """How many singular directions hold the energy of a difference; 0 where more than could be looked for."""
    if sum(length > 1 for length in shape) < 2:
        return 0, 0
    import torch

    matrix = torch.from_numpy(difference).reshape(shape[0], -1)
    most = min(matrix.shape)
    if most > 4 * WIDEST:
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(matrix.shape[1], WIDEST + 8, dtype=torch.float64, generator=generator)
        basis = torch.linalg.qr(matrix @ probe).Q
        values = torch.linalg.svdvals(basis.T @ matrix)
    else:
        values = torch.linalg.svdvals(matrix)
    energy = (values.square().cumsum(0) / matrix.square().sum()).numpy()
    found = int(np.searchsorted(energy, ENERGY)) + 1
    return (found, most) if found <= len(energy) and energy[-1] >= ENERGY else (most, most)


def _still(x: Array, y: Array) -> tuple[float, float]:
    """The densest ratio of elements and the share that lies within `_WINDOW` of it; none where chance would do as well."""
    present = (x != 0) & (y != 0)
    ratios = np.sort(y[present] / x[present])
    count = max(_FEW, math.ceil(STILL * len(x)))
    if len(ratios) < 2 * count:
        return 1.0, 0.0
    # The shortest span that holds so many; it has to be much shorter than the spans that hold them elsewhere.
    spans = ratios[count - 1 :] - ratios[: len(ratios) - count + 1]
    at = int(spans.argmin())
    ratio = float(np.median(ratios[at : at + count]))
    if not 0 < ratio < 2 or spans[at] > _WINDOW:
        return 1.0, 0.0
    share = float(np.searchsorted(ratios, ratio + _WINDOW) - np.searchsorted(ratios, ratio - _WINDOW)) / len(x)
    wide = float(np.searchsorted(ratios, ratio + 20 * _WINDOW) - np.searchsorted(ratios, ratio - 20 * _WINDOW)) / len(x)
    return (ratio, share) if share > 0.3 * wide else (1.0, 0.0)
