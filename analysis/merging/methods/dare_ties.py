"""Task vectors of which most entries are dropped by chance, combined by an elected sign."""

from torch import Tensor

from weightspace.analysis.merging.election import elect
from weightspace.analysis.merging.method import Each, Share, Slab, merge_method
from weightspace.analysis.merging.methods.dare_linear import dropped
from weightspace.analysis.merging.task_vectors import onto_base
from weightspace.analysis.merging.thinning import Thinned, thinned, uniformly


@merge_method(
    "dare_ties",
    paper="Yu et al., Language models are super mario (arXiv:2311.03099), with the signs of Yadav et al. (arXiv:2306.01708)",
    promises=("identity", "order", "absence"),
    summary=dropped,
    chance=True,
)
def dare_ties(
    slab: Slab,
    *,
    weight: Each,
    density: Share = (1.0,),
    lambda_: float = 1.0,
    normalize: bool = False,
    rescale: bool = True,
    rescale_by: str = "norm",
    int8_mask: bool = False,
    summary: Thinned,
) -> Tensor:
    """`base + lambda * elect(w_i drop(d_i))`: `drop` as in dare_linear, `elect` as in ties. `int8_mask` has no effect."""
    return onto_base(slab, elect(thinned(slab, uniformly(density), summary), weight, normalize), lambda_)
