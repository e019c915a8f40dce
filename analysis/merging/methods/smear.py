"""Average of experts by what a router says of one input."""

from typing import Annotated

import torch
from torch import Tensor

from weightspace.analysis.merging.method import Between, Each, Slab, merge_method
from weightspace.analysis.merging.methods.linear import linear


@merge_method(
    "smear",
    paper="Muqeeth, Liu and Raffel, Soft merging of experts with adaptive routing (arXiv:2306.03745)",
    promises=("identity", "order", "permutation"),
    base="none",
)
def smear(slab: Slab, *, score: Each, temperature: Annotated[float, Between(0, float("inf"), open=True)] = 1.0) -> Tensor:
    """`sum_i p_i x_i` with `p = softmax(score / temperature)`.

    In the paper a trained router gives the scores anew for each input (`weightspace.analysis.merging.experts`). A recipe fixes them
    once for all inputs; numbers that no router was trained to give are no better than any other weights.
    """
    shares = (torch.tensor(score, dtype=torch.float64) / temperature).softmax(0)
    return linear(slab, weight=tuple(shares.tolist()))
