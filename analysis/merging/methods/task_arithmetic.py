"""Sum of task vectors."""

from torch import Tensor

from weightspace.analysis.merging.election import total
from weightspace.analysis.merging.method import Each, Share, Slab, merge_method
from weightspace.analysis.merging.task_vectors import deltas, onto_base


@merge_method(
    "task_arithmetic",
    paper="Ilharco et al., Editing models with task arithmetic (arXiv:2212.04089)",
    promises=("identity", "order", "absence", "permutation"),
)
def task_arithmetic(
    slab: Slab,
    *,
    weight: Each,
    density: Share = (1.0,),
    lambda_: float = 1.0,
    normalize: bool = False,
    rescale: bool = False,
    int8_mask: bool = False,
) -> Tensor:
    """`base + lambda * sum_i w_i d_i` with `d_i = x_i - base`, the sum divided by `sum_i w_i` where `normalize`.

    Nothing is dropped: `density`, `rescale` and `int8_mask` are taken, as mergekit takes them, and have no effect.
    """
    return onto_base(slab, total(deltas(slab), weight, normalize), lambda_)
