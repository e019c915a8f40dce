"""Sum of task vectors of which small entries are dropped with a higher probability than large ones."""

from typing import Annotated, Any

from torch import Tensor

from weightspace.analysis.merging.election import total
from weightspace.analysis.merging.method import Between, Each, Share, Slab, Slabs, merge_method
from weightspace.analysis.merging.task_vectors import onto_base
from weightspace.analysis.merging.thinning import Thinned, by_rank, draw_all, thinned


def pruned(slabs: Slabs, *, density: Each, epsilon: Each, rescale: bool, **_: Any) -> Thinned:
    """The draws of DELLA, where a scale has to be found out by drawing, and the scales.

    Raises:
        MergeError: a probability would not lie between 0 and 1.
    """
    draw = by_rank(density, epsilon)
    return draw_all(slabs, draw, len(density)) if rescale else Thinned((1.0,) * len(density))


@merge_method(
    "della_linear",
    paper="Deep et al., DELLA-Merging (arXiv:2406.11617)",
    promises=("identity", "order", "absence"),
    summary=pruned,
    chance=True,
)
def della_linear(
    slab: Slab,
    *,
    weight: Each,
    density: Share = (1.0,),
    epsilon: Annotated[Each, Between(0, 0.5)] = (0.15,),
    lambda_: float = 1.0,
    normalize: bool = False,
    rescale: bool = True,
    int8_mask: bool = False,
    summary: Thinned,
) -> Tensor:
    """`base + lambda * sum_i w_i prune(d_i)`, the sum divided by `sum_i w_i` where `normalize`.

    `prune` keeps entries with a probability that goes from `density - epsilon` for the smallest of a row to `density + epsilon` for
    the largest, evenly with the rank (all are kept where `density` is 1); where `rescale`, the kept are scaled to the tensor's sum of
    magnitudes of before. A row is what lies along axis 1, as in mergekit; a tensor of one axis is one row.

    Departures: the paper scales each kept entry by one over its probability; mergekit gives equal magnitudes ranks in any order, we
    give them the mean of their ranks, and an entry alone in its row has the probability `density`. `int8_mask` has no effect.
    """
    return onto_base(slab, total(thinned(slab, by_rank(density, epsilon), summary), weight, normalize), lambda_)
