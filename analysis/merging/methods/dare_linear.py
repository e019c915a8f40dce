"""Sum of task vectors of which most entries are dropped by chance."""

from typing import Any

from torch import Tensor

from weightspace.analysis.merging.election import total
from weightspace.analysis.merging.method import Each, Share, Slab, Slabs, merge_method
from weightspace.analysis.merging.task_vectors import onto_base
from weightspace.analysis.merging.thinning import Thinned, draw_all, thinned, uniformly
from weightspace.errors import MergeError


def dropped(slabs: Slabs, *, density: Each, rescale: bool, rescale_by: str, **_: Any) -> Thinned:
    """The draws of DARE, where a scale has to be found out by drawing, and the scales.

    Raises:
        MergeError: no such way to rescale.
    """
    if rescale_by not in ("norm", "density"):
        raise MergeError(f"parameter 'rescale_by' is '{rescale_by}'; expected 'norm' or 'density'")
    if rescale and rescale_by == "norm":
        return draw_all(slabs, uniformly(density), len(density))
    return Thinned(tuple(1 / share if rescale and share > 0 else 1.0 for share in density))


@merge_method(
    "dare_linear",
    paper="Yu et al., Language models are super mario (arXiv:2311.03099)",
    promises=("identity", "order", "absence"),
    summary=dropped,
    chance=True,
)
def dare_linear(
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
    """`base + lambda * sum_i w_i drop(d_i)`, the sum divided by `sum_i w_i` where `normalize`.

    `drop` keeps each entry with probability `density`; where `rescale`, the kept are scaled to the tensor's sum of magnitudes of before
    (`rescale_by: norm`, as mergekit has it) or by `1 / density` (`rescale_by: density`, as in the paper, equation 2). `int8_mask` has
    no effect.
    """
    return onto_base(slab, total(thinned(slab, uniformly(density), summary), weight, normalize), lambda_)
