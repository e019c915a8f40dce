"""Directions of tensors: their inner products, gathered slab by slab, and the arcs between them.

A mean or a path on a sphere is a linear combination of its points whose coefficients depend on nothing but their inner products. So methods
of that kind look at each tensor once for a small matrix, do their geometry on it, and combine the inputs in one more pass.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from weightspace.analysis.merging.method import Slab
from weightspace.analysis.merging.task_vectors import deltas, onto_base


def offsets(slab: Slab) -> Sequence[Tensor]:
    """The inputs as seen from the base, or from nought where there is none."""
    return slab.tensors if slab.base is None else tuple(deltas(slab))


def onto_origin(slab: Slab, point: Tensor) -> Tensor:
    """A combination of `offsets`, seen from nought again; it may be overwritten.

    Combining the offsets, and not the inputs and the base with weights that sum to one, keeps the weight of a short offset from
    magnifying the rounding of what is long: an input that equals the base in a tensor may have any weight there.
    """
    return point if slab.base is None else onto_base(slab, point)


def inner_products(slabs: Iterable[Slab], points: Callable[[Slab], Sequence[Tensor]], axis: int | None = None) -> Tensor:
    """Sum the products of every pair of tensors over all slabs.

    All in float64, which costs no more than summing in pieces for the same care would: rounded products would place opposite or equal tensors
    at an angle of a thousandth.

    Args:
        slabs: of one tensor.
        points: the tensors of a slab whose products are wanted.
        axis: sum over this axis alone and keep it with length one; over all of them where None. Only axis 0 goes across slabs.

    Returns:
        float64 on the CPU, `[n, n]` with the kept axes after it.
    """
    total: Tensor | None = None
    for slab in slabs:
        found = _products(points(slab), axis)
        total = found if total is None else total.add_(found)
    assert total is not None, "a tensor has at least one slab"
    return total.cpu()


def _products(vectors: Sequence[Tensor], axis: int | None) -> Tensor:
    exact = [vector.double() for vector in vectors]
    sums = [[_dot(one, other, axis) for other in exact[: index + 1]] for index, one in enumerate(exact)]
    count = range(len(vectors))
    return torch.stack([torch.stack([sums[max(i, j)][min(i, j)] for j in count]) for i in count])


def _dot(one: Tensor, other: Tensor, axis: int | None) -> Tensor:
    return torch.dot(one.flatten(), other.flatten()) if axis is None else (one * other).sum(axis, keepdim=True)


def lengths(products: Tensor) -> Tensor:
    """Norms of the tensors, `[n, ...]`, from their inner products `[n, n, ...]`."""
    return products.diagonal().movedim(-1, 0).sqrt()


def cosines(products: Tensor) -> Tensor:
    """Cosines of the angles between tensors, `[n, n, ...]`, from their inner products; 0 with a tensor of zeros, which has no direction."""
    norms = lengths(products)
    scale = norms.unsqueeze(0) * norms.unsqueeze(1)
    return torch.where(scale > 0, products / scale.where(scale > 0, 1.0), 0.0).clamp(-1, 1)


def arc(cosine: Tensor, t: float, straight: float) -> tuple[Tensor, Tensor]:
    """Return the weights of two points for the point at `t` of the way along the arc between them.

    `sin((1-t) a) / sin a` and `sin(t a) / sin a` for the angle `a`.

    Args:
        cosine: of the angle, float64.
        t: 0 for the first point, 1 for the second.
        straight: where the cosine's size is above this, the weights are `1 - t` and `t`: the arc is as good as straight, or leads nowhere in
            particular between opposite points.
    """
    bent = cosine.abs() <= straight
    angle = cosine.where(bent, 0.0).acos()
    first, second = ((share * angle).sin() / angle.sin() for share in (1 - t, t))
    return first.where(bent, 1 - t), second.where(bent, t)
