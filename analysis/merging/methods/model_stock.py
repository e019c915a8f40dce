"""The mean of fine-tuned models drawn back towards their base, by how far they agree."""

import torch
from torch import Tensor

from weightspace.analysis.merging.averages import weighted_sum
from weightspace.analysis.merging.method import Slab, Slabs, Whole, merge_method
from weightspace.analysis.merging.spheres import cosines, inner_products, offsets


def _share(products: Tensor) -> Tensor:
    """The share of the mean, from the inner products of the task vectors: one, or one for each row."""
    count = len(products)
    between = cosines(products)
    agreement = torch.stack([between[i, j] for i in range(count) for j in range(i)]).mean(0)
    below = 1 + (count - 1) * agreement
    lost = below.abs() < 1e-6
    return (count * agreement / below.where(~lost, 1.0)).where(~lost, 0.0)


def _share_of_all(slabs: Slabs, *, filter_wise: bool) -> float | None:
    return None if filter_wise else float(_share(inner_products(slabs, offsets)))


@merge_method(
    "model_stock",
    paper="Jang et al., Model Stock: all we need is just a few fine-tuned models (arXiv:2403.19522)",
    promises=("identity", "order", "permutation"),
    inputs=(2, None),
    summary=_share_of_all,
)
def model_stock(slab: Slab, *, filter_wise: bool = False, summary: float | None) -> Tensor:
    """Return `t mean_i x_i + (1 - t) x_0` with `t = N c / (1 + (N-1) c)`, where `c` is the mean cosine between two task vectors.

    Model Stock: all we need is just a few fine-tuned models (Jang, Yun and Han, arXiv:2403.19522). `t` is not clamped, so models that
    learned opposite things land beyond the base; where the denominator vanishes the base stays. Cosines are exact down to the smallest
    task vectors, where mergekit divides by no less than 1e-6.

    Args:
        slab: inputs and base.
        filter_wise: one share for each vector along the last axis, not one for the whole tensor.
        summary: the share of the mean, where it is one for all.
    """
    assert slab.base is not None, "required"
    count = len(slab.tensors)
    t = _share(inner_products(Whole(slab), offsets, -1)).to(slab.base) if summary is None else summary
    return weighted_sum((slab.base, *slab.tensors), (1 - t, *[t / count] * count))
