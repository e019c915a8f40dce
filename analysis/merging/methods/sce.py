"""Task vectors where they vary most, weighted by their energy, combined by an elected sign."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Annotated

import torch
from torch import Tensor

from weightspace.analysis.merging.election import agree, direction
from weightspace.analysis.merging.method import Between, Slab, Slabs, merge_method
from weightspace.analysis.merging.selection import kth_largest
from weightspace.analysis.merging.task_vectors import as_factor, deltas, onto_base


@dataclass(frozen=True)
class Selected:
    """What SCE knows of a whole tensor.

    Attributes:
        variance: entries that vary as much or more are selected.
        coefficients: of the models; they sum to 1.
    """

    variance: float
    coefficients: tuple[float, ...]


def _selected(slabs: Slabs, *, select_topk: float, floor: float, int8_mask: bool) -> Selected:
    threshold = _threshold(slabs, select_topk)
    squares: list[float] = []
    for slab in slabs:
        found = [float(torch.dot(delta.reshape(-1), delta.reshape(-1))) for delta in _most_varied(slab, threshold)]
        squares = [old + new for old, new in zip(squares or [0.0] * len(found), found, strict=True)]
    whole = sum(squares)
    if whole == 0 or whole < floor * prod(slabs.shape):
        return Selected(threshold, (1 / len(squares),) * len(squares))
    return Selected(threshold, tuple(square / whole for square in squares))


def _threshold(slabs: Slabs, share: float) -> float:
    if share >= 1 or share <= 0 or not prod(slabs.shape):
        return inf if share <= 0 else 0.0
    (found,) = kth_largest(
        lambda: ([_variance(list(deltas(slab)))] for slab in slabs),
        lambda _, varied: [int(share * varied)] if share * varied >= 1 else [],
    )
    return found[0] if found else inf


def _most_varied(slab: Slab, threshold: float) -> list[Tensor]:
    """The deltas of a slab where they vary as much as the threshold or more."""
    parts = list(deltas(slab))
    if threshold > 0:
        chosen = as_factor(_variance(parts) >= threshold)
        parts = [part.mul_(chosen) for part in parts]
    return parts


def _variance(parts: Sequence[Tensor]) -> Tensor:
    """Entry by entry across models, around the first model: exactly 0 where all are equal, never negative (a NaN may have a sign)."""
    first, *others = parts
    mean, square = torch.zeros_like(first), torch.zeros_like(first)
    for other in others:
        apart = other - first
        mean.add_(apart)
        square.add_(apart.mul_(apart))
    return square.div_(len(parts)).sub_(mean.div_(len(parts)).square_()).clamp_(min=0).abs_()


@merge_method(
    "sce",
    paper="Wan et al., FuseChat (arXiv:2408.07990)",
    promises=("identity", "order", "permutation"),
    summary=_selected,
)
def sce(
    slab: Slab, *, select_topk: Annotated[float, Between(0, 1)] = 1.0, floor: float = 1e-6, int8_mask: bool = False, summary: Selected
) -> Tensor:
    """`base + elect(c_i select(d_i))`, each entry divided by the sum of the coefficients `c_i` that had a say there.

    Select: keep the share `select_topk` of the entries that vary at all across the models, those with the largest variance, and all that
    equal the smallest of these; nothing where the share comes to less than one entry. Calculate: `c_i` is the mean square of a tensor's
    selected delta over the sum of these of all models; erase: drop what has not the sign of `sum_i d_i` (without coefficients, zero counts
    as +).

    Where the mean squares of all models sum to less than `floor`, they have the same coefficient: mergekit's rule, which concerns most
    fine-tuned models, as their deltas are small. Set it to 0 for the coefficients of the paper at any size.

    Departures from mergekit: an entry whose coefficients sum to less than 1e-6 is averaged like others, not shrunk; ties are all kept.
    `int8_mask` has no effect.
    """
    parts = _most_varied(slab, summary.variance)
    signs = direction(parts)
    voices = [part.mul_(share) for part, share in zip(parts, summary.coefficients, strict=True)]
    return onto_base(slab, agree(voices, signs, summary.coefficients, normalize=True))
