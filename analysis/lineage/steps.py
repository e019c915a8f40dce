"""The step between two models: how far training moved the most of their elements, once what merely decayed is taken out."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

BINS, LOW, HIGH = 600, 0.4, 1.6  # of the ratios of elements, among which a decay is sought
COMMON = 3  # how many of the commonest ratios are tried
SAMPLE = 200_000  # elements of a matrix whose ratios are looked at
LARGE = 0.25  # of the mean magnitude, from which an element's ratio counts

Array = np.ndarray[Any, np.dtype[Any]]
Pairs = Callable[[int], tuple[Array, Array]]


def step(pairs: Pairs, sizes: Sequence[int], is_matrix: Sequence[bool], is_equal: Sequence[bool]) -> float:
    """The squared distance that would lie between two models if all elements had moved alike, by the mean of the fourth roots.

    Training moves a few elements far and most of them little. A sum of squares sees the few, which other models that were trained on the same
    data share; fourth roots see the many, which stay where the parent had them. Decay shrinks every matrix by one factor: the commonest ratios
    of elements are tried, and the model with the smaller elements is taken for the later.

    Args:
        pairs: reads a tensor of the one and of the other by its place, as rows of numbers.
        sizes: elements of each tensor.
        is_matrix: whether it has two axes or more, and decays.
        is_equal: whether it is equal in both, so that it need not be read.
    """
    count = sum(sizes)
    if not count:
        return 0.0
    ratios = [1.0] if any(m and e for m, e in zip(is_matrix, is_equal, strict=True)) else _ratios(pairs, is_matrix, is_equal)
    totals = np.zeros(len(ratios))
    for place, (matrix, equal) in enumerate(zip(is_matrix, is_equal, strict=True)):
        if equal:
            continue
        x, y = pairs(place)
        for at, ratio in enumerate(ratios if matrix else [1.0] * len(ratios)):
            moved = y - ratio * x if ratio <= 1 else x - y / ratio
            totals[at] += np.sqrt(np.sqrt(np.abs(moved))).sum()
    return count * float(totals.min() / count) ** 8


def between(one: Mapping[str, Array], other: Mapping[str, Array], matrices: Sequence[str]) -> float:
    """The step between matrices by name."""
    kept = [name for name in matrices if name in other]
    return step(lambda at: (one[kept[at]], other[kept[at]]), [len(one[name]) for name in kept], [True] * len(kept), [False] * len(kept))


def _ratios(pairs: Pairs, is_matrix: Sequence[bool], is_equal: Sequence[bool]) -> list[float]:
    """No decay, and the middles of the bins that most ratios lie in, of up to `SAMPLE` elements of each matrix."""
    found = []
    for place in (at for at, matrix in enumerate(is_matrix) if matrix and not is_equal[at]):
        x, y = (values[:: 1 + len(values) // SAMPLE] for values in pairs(place))
        large = np.abs(x) > LARGE * np.abs(x).mean()
        found.append(y[large] / x[large])
    ratios = np.concatenate(found) if found else np.zeros(0)
    ratios = ratios[(ratios > LOW) & (ratios < HIGH)]
    bins = ((ratios - LOW) * (BINS / (HIGH - LOW))).astype(np.int64)
    counts = np.bincount(bins, minlength=BINS)
    best = [int(at) for at in np.argsort(counts)[-COMMON:] if counts[at]]
    return [1.0, *(float(np.median(ratios[bins == at])) for at in best)]
