"""Sum of task vectors without their largest and smallest entries."""

from typing import Any

from torch import Tensor

from weightspace.analysis.merging.election import total
from weightspace.analysis.merging.method import Each, Share, Slab, Slabs, merge_method
from weightspace.analysis.merging.task_vectors import onto_base
from weightspace.analysis.merging.trimming import Band, Places, find_bands, trimmed


def crumbs(slabs: Slabs, *, density: Each, gamma: Each, rescale: bool, **_: Any) -> tuple[Band, ...]:
    """The band of magnitudes that is kept of each input: the share `density` below the share `gamma` of outliers.

    At least one entry is kept of a tensor, and fewer outliers are dropped where there would not be enough left.
    """

    def middle(index: int, entries: int) -> Places | None:
        share = density[index]
        if share >= 1:
            return None
        kept = max(1, int(share * entries)) if share > 0 else 0
        dropped = min(int(gamma[index] * entries), entries - kept)
        return dropped + 1, dropped + kept

    return find_bands(slabs, middle, len(density), rescale)


@merge_method(
    "breadcrumbs",
    paper="Davari and Belilovsky, Model Breadcrumbs (arXiv:2312.06795)",
    promises=("identity", "order", "absence", "permutation"),
    summary=crumbs,
)
def breadcrumbs(
    slab: Slab,
    *,
    weight: Each,
    density: Share = (1.0,),
    gamma: Share = (0.01,),
    lambda_: float = 1.0,
    normalize: bool = False,
    rescale: bool = False,
    int8_mask: bool = False,
    summary: tuple[Band, ...],
) -> Tensor:
    """`base + lambda * sum_i w_i band(d_i)`, the sum divided by `sum_i w_i` where `normalize`.

    `band` drops the share `gamma` of a tensor's entries that are the largest by magnitude and keeps the share `density` that comes next
    (nothing is dropped where that is 1); entries that equal the largest or the smallest of these are kept as well. Where `rescale`, the
    kept are scaled to the sum of magnitudes of before.

    Departure from mergekit: at least one entry is kept, as ties does, where the share of a small tensor comes to less than one; there
    such a tensor's whole delta is lost. `int8_mask` has no effect.
    """
    return onto_base(slab, total(trimmed(slab, summary), weight, normalize), lambda_)
