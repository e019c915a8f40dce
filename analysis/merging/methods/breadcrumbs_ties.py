"""Task vectors without their largest and smallest entries, combined by an elected sign."""

from torch import Tensor

from weightspace.analysis.merging.election import elect
from weightspace.analysis.merging.method import Each, Share, Slab, merge_method
from weightspace.analysis.merging.methods.breadcrumbs import crumbs
from weightspace.analysis.merging.task_vectors import onto_base
from weightspace.analysis.merging.trimming import Band, trimmed


@merge_method(
    "breadcrumbs_ties",
    paper="Davari and Belilovsky, Model Breadcrumbs (arXiv:2312.06795), with the signs of Yadav et al. (arXiv:2306.01708)",
    promises=("identity", "order", "absence", "permutation"),
    summary=crumbs,
)
def breadcrumbs_ties(
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
    """`base + lambda * elect(w_i band(d_i))`: `band` as in breadcrumbs, `elect` as in ties. `int8_mask` has no effect."""
    return onto_base(slab, elect(trimmed(slab, summary), weight, normalize), lambda_)
