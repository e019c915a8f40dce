"""Plain average."""

from torch import Tensor

from weightspace.analysis.merging.method import Slab, merge_method
from weightspace.analysis.merging.methods.linear import linear


@merge_method(
    "uniform_soup",
    paper="Wortsman et al., Model soups (arXiv:2203.05482)",
    promises=("identity", "order", "permutation"),
    base="none",
)
def uniform_soup(slab: Slab) -> Tensor:
    """`sum_i x_i / N`: `linear` with equal weights."""
    return linear(slab, weight=(1.0,) * len(slab.tensors))
