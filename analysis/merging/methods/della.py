"""Task vectors of which small entries are dropped with a higher probability than large ones, combined by an elected sign."""

from typing import Annotated

from torch import Tensor

from weightspace.analysis.merging.election import elect
from weightspace.analysis.merging.method import Between, Each, Share, Slab, merge_method
from weightspace.analysis.merging.methods.della_linear import pruned
from weightspace.analysis.merging.task_vectors import onto_base
from weightspace.analysis.merging.thinning import Thinned, by_rank, thinned


@merge_method(
    "della",
    paper="Deep et al., DELLA-Merging (arXiv:2406.11617)",
    promises=("identity", "order", "absence"),
    summary=pruned,
    chance=True,
)
def della(
    slab: Slab,
    *,
    weight: Each,
    density: Share = (1.0,),
    epsilon: Annotated[Each, Between(0, 0.5)] = (0.15,),
    lambda_: float = 1.0,
    normalize: bool = True,
    rescale: bool = True,
    int8_mask: bool = False,
    summary: Thinned,
) -> Tensor:
    """`base + lambda * elect(w_i prune(d_i))`: `prune` as in della_linear, `elect` as in ties. `int8_mask` has no effect."""
    return onto_base(slab, elect(thinned(slab, by_rank(density, epsilon), summary), weight, normalize), lambda_)
