"""Spherical interpolation between two models, or between what they learned since their base."""

from torch import Tensor

from weightspace.analysis.merging.averages import weighted_sum
from weightspace.analysis.merging.method import Each, Slab, Slabs, Whole, merge_method
from weightspace.analysis.merging.spheres import arc, cosines, inner_products, offsets, onto_origin

STRAIGHT = 1 - 1e-6


def _cosine(slabs: Slabs, *, nuslerp_row_wise: bool, nuslerp_flatten: bool, **_: object) -> Tensor | None:
    """The cosine of the whole tensors, or of each of their columns; None where each slab knows the cosines of its own rows."""
    if nuslerp_flatten or nuslerp_row_wise:
        return cosines(inner_products(slabs, offsets, None if nuslerp_flatten else 0))[0, 1]
    return None


@merge_method(
    "nuslerp",
    paper="Shoemake, Animating rotation with quaternion curves (SIGGRAPH 1985)",
    promises=("identity", "order", "permutation"),
    base="optional",
    inputs=(2, 2),
    summary=_cosine,
)
def nuslerp(slab: Slab, *, weight: Each, nuslerp_flatten: bool = True, nuslerp_row_wise: bool = False, summary: Tensor | None) -> Tensor:
    """Return `x_0 + slerp(t, x_1 - x_0, x_2 - x_0)` with `t = w_2 / (w_1 + w_2)`; without a base, `slerp(t, x_1, x_2)`.

    `t` is one half where the weights sum to less than 1e-6. Named and defined as in mergekit, except that the way is straight where the
    cosine is within 1e-6 of 1 or -1. In mergekit that takes a squared sine below 1e-16, less than float32 can tell, so that opposite
    tensors are merged into their magnified rounding errors; of parallel ones the results differ by about 1e-7.

    Args:
        slab: two inputs, and a base or none.
        weight: of the two.
        nuslerp_flatten: one angle for the whole tensor; else one for each vector along the last axis.
        nuslerp_row_wise: where not flattened, one angle for each vector along the first axis instead (the name is mergekit's).
        summary: cosines known beforehand.
    """
    total = sum(weight)
    t = 0.5 if abs(total) < 1e-6 else weight[1] / total
    cosine = cosines(inner_products(Whole(slab), offsets, -1))[0, 1] if summary is None else summary
    return onto_origin(slab, weighted_sum(offsets(slab), _plain(arc(cosine, t, STRAIGHT), slab)))


def _plain(weights: tuple[Tensor, ...], slab: Slab) -> list[float | Tensor]:
    """Numbers where one holds for the whole tensor, else tensors like its own."""
    return [weight.item() if weight.numel() == 1 else weight.to(slab.tensors[0]) for weight in weights]
