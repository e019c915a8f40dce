"""Spherical interpolation between a base and one other model."""

from collections.abc import Sequence

from torch import Tensor

from weightspace.analysis.merging.averages import weighted_sum
from weightspace.analysis.merging.method import Slab, Slabs, merge_method
from weightspace.analysis.merging.spheres import arc, cosines, inner_products

STRAIGHT = 0.9995


def _ends(slab: Slab) -> Sequence[Tensor]:
    assert slab.base is not None, "required"
    return slab.base, *slab.tensors


def _weights(slabs: Slabs, *, t: float) -> tuple[float, float]:
    first, second = arc(cosines(inner_products(slabs, _ends))[0, 1], t, STRAIGHT)
    return first.item(), second.item()


@merge_method(
    "slerp",
    paper="Shoemake, Animating rotation with quaternion curves (SIGGRAPH 1985)",
    promises=("identity", "permutation"),
    inputs=(1, 1),
    summary=_weights,
)
def slerp(slab: Slab, *, t: float, summary: tuple[float, float]) -> Tensor:
    """Return `[sin((1-t) a) x_0 + sin(t a) x_1] / sin a`, where `a` is the angle between the flattened tensors.

    The weights are applied to the tensors as they are, not to their directions, so norms are interpolated too. Linear where `|cos a| > 0.9995`;
    a tensor of zeros is at a right angle to all. Animating rotation with quaternion curves (Shoemake, SIGGRAPH 1985).

    Args:
        slab: base and one input.
        t: 0 for the base, 1 for the other.
        summary: weights of the two.
    """
    return weighted_sum(_ends(slab), summary)
