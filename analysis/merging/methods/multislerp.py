"""Barycentre of directions: many models on a sphere, in one step."""

import torch
from torch import Tensor

from weightspace.analysis.merging.averages import shares, weighted_sum
from weightspace.analysis.merging.method import Each, Slab, Slabs, merge_method
from weightspace.analysis.merging.spheres import inner_products, lengths, offsets, onto_origin


def _weights(slabs: Slabs, *, weight: Each, normalize_weights: bool, eps: float) -> list[float]:
    """What each input is multiplied by."""
    given = torch.tensor(shares(weight, "normalize_weights") if normalize_weights else weight, dtype=torch.float64)
    products = inner_products(slabs, offsets)
    norms = lengths(products)
    mean = given / (norms + eps)
    length = (mean @ products @ mean).clamp(min=0).sqrt()
    made = given if length < eps else mean * ((given @ norms) / length)
    return [float(one) for one in made]


@merge_method(
    "multislerp",
    paper="Goddard, Multi-SLERP (https://goddard.blog/posts/multislerp-wow-what-a-cool-idea)",
    promises=("order", "absence", "permutation"),
    base="optional",
    summary=_weights,
)
def multislerp(slab: Slab, *, weight: Each, normalize_weights: bool = True, eps: float = 1e-8, summary: list[float]) -> Tensor:
    """Return `(sum_i w_i |x_i|) m`, where `m` is the direction of `sum_i w_i u_i` and `u_i = x_i / (|x_i| + eps)`; from the base, if any.

    The definition (Goddard, Multi-SLERP) goes on to average the tangents `u_i - (u_i . m) m` at `m` with the same weights, and to follow
    that average along the sphere. It is nought: `sum_i w_i u_i` is a multiple of `m`, and the projection takes away just that. So is left out.

    Where the directions cancel (`|sum_i w_i u_i| < eps`) the result is `sum_i w_i x_i` for any number of inputs; mergekit does so for two
    and stops at more. A single input is no exception to the formula (mergekit: it comes back whatever its weight).

    Args:
        slab: inputs, and a base or none.
        weight: of each input.
        normalize_weights: divide the weights by their sum.
        eps: a length that counts as none.
        summary: what each input is multiplied by.

    Raises:
        MergeError: the weights sum to nothing and are to be normalised.
    """
    return onto_origin(slab, weighted_sum(offsets(slab), summary))
