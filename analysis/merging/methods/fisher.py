"""Average weighted, element by element, by how much the data of each model care."""

import functools
from typing import Annotated

import torch
from torch import Tensor

from weightspace.analysis.merging.evidence import evidence_of
from weightspace.analysis.merging.method import Between, Each, Slab, merge_method
from weightspace.analysis.merging.methods.linear import linear
from weightspace.errors import MergeError


@merge_method(
    "fisher",
    paper="Matena and Raffel, Merging models with Fisher-weighted averaging (arXiv:2111.09832)",
    promises=("identity", "order", "absence", "permutation"),
    base="none",
    evidence=("fisher",),
)
def fisher(
    slab: Slab, *, weight: Annotated[Each, Between(0, float("inf"))] = (1.0,), floor: Annotated[float, Between(0, float("inf"))] = 0.0
) -> Tensor:
    """`sum_i w_i F_i x_i / sum_i w_i F_i` element by element, with the diagonal Fisher `F_i` of each model on its own data.

    Where no model's data care (a dead unit), and for tensors without a Fisher such as running statistics, it is the average weighted by
    `weight`. A Fisher is as large as its model is unsure, so an unsure one may drown the others; one by the norm of each Fisher as `weight`
    evens that out.

    Args:
        slab: with the evidence `fisher`, as `evidence.fisher` computes it.
        weight: `w_i`.
        floor: smaller Fishers count as this, against estimates from few examples. An absolute number: Fishers of large networks are
            tiny, and a floor above them all gives the plain average.

    Raises:
        MergeError: a Fisher for some models only, of another shape, or negative.
    """
    found = evidence_of(slab, "fisher")
    if found is None:
        return linear(slab, weight=weight)
    for one in found:
        if one.shape != slab.tensors[0].shape or bool((one < 0).any()):
            what = f"has shape {tuple(one.shape)}" if one.shape != slab.tensors[0].shape else "has negative values"
            raise MergeError(
                f"the Fisher of tensor '{slab.name}' {what}; expected squares of shape {tuple(slab.tensors[0].shape)}; "
                "compute it with evidence.fisher on this very model"
            )
    importances = [share * one.to(slab.tensors[0].dtype).clamp_min(floor) for share, one in zip(weight, found, strict=True)]
    largest = functools.reduce(torch.maximum, importances)
    nobody_cares = largest == 0
    # Ratios to the largest, since Fishers of 1e-30 are usual and their products with weights would sink below what float32 holds.
    largest = largest.masked_fill(nobody_cares, 1)
    made, total = torch.zeros_like(slab.tensors[0]), torch.zeros_like(slab.tensors[0])
    for tensor, importance, share in zip(slab.tensors, importances, weight, strict=True):
        ratio = (importance / largest).masked_fill_(nobody_cares, share)
        made.addcmul_(ratio, tensor)
        total.add_(ratio)
    if not bool((total > 0).all()):
        raise MergeError(f"the weights {list(weight)} are all zero; give at least one model a positive one")
    return made.div_(total)
