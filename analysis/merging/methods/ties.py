"""Task vectors trimmed, then combined by an elected sign."""

from typing import Any

from torch import Tensor

from weightspace.analysis.merging.election import elect
from weightspace.analysis.merging.method import Each, Share, Slab, Slabs, merge_method
from weightspace.analysis.merging.task_vectors import onto_base
from weightspace.analysis.merging.trimming import Band, Places, find_bands, trimmed


def _bands(slabs: Slabs, *, density: Each, rescale: bool, **_: Any) -> tuple[Band, ...]:
    def largest(index: int, entries: int) -> Places | None:
        share = density[index]
        return None if share >= 1 else (1, max(1, int(share * entries)) if share > 0 else 0)

    return find_bands(slabs, largest, len(density), rescale)


@merge_method(
    "ties",
    paper="Yadav et al., TIES-Merging (arXiv:2306.01708)",
    promises=("identity", "order", "absence", "permutation"),
    summary=_bands,
)
def ties(
    slab: Slab,
    *,
    weight: Each,
    density: Share = (1.0,),
    lambda_: float = 1.0,
    normalize: bool = True,
    rescale: bool = False,
    int8_mask: bool = False,
    summary: tuple[Band, ...],
) -> Tensor:
    """`base + lambda * elect(w_i trim(d_i))`: the largest of each delta, of which each entry is summed over the models that agree.

    `trim` keeps the share `density` of a tensor's entries that are the largest by magnitude, at least one, and all that equal the
    smallest of them; where `rescale`, the kept are scaled to the sum of magnitudes of before. `elect`: see `election.elect`.

    Departures: the paper trims over the whole task vector, mergekit and we in each tensor; the paper has no weights, and averages
    (`normalize`); mergekit keeps an arbitrary choice of entries that equal the smallest. `int8_mask` has no effect.
    """
    return onto_base(slab, elect(trimmed(slab, summary), weight, normalize), lambda_)
