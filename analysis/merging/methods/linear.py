"""Weighted average."""

from torch import Tensor

from weightspace.analysis.merging.averages import shares, weighted_sum
from weightspace.analysis.merging.method import Each, Slab, merge_method


@merge_method(
    "linear",
    paper="Wortsman et al., Model soups (arXiv:2203.05482)",
    promises=("order", "absence", "permutation"),
    base="none",
)
def linear(slab: Slab, *, weight: Each, normalize: bool = True) -> Tensor:
    """Return `sum_i w_i x_i`, divided by `sum_i w_i` where `normalize`.

    Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing inference time (Wortsman et al.,
    arXiv:2203.05482); the uniform soup has equal weights. Weights that sum to nothing are refused, where mergekit divides by zero.

    Raises:
        MergeError: the weights sum to nothing and are to be normalised.
    """
    return weighted_sum(slab.tensors, shares(weight) if normalize else weight)
