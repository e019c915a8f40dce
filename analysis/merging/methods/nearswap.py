"""Moving values to another model's where the two are close."""

from typing import Annotated

from torch import Tensor

from weightspace.analysis.merging.method import Between, Slab, merge_method


@merge_method(
    "nearswap",
    paper="alchemonaut, QuartetAnemoi-70B (https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001)",
    promises=("identity", "permutation"),
    inputs=(1, 1),
)
def nearswap(slab: Slab, *, t: Annotated[float, Between(0)]) -> Tensor:
    """Move each value of the base towards the other model's by `t`, or all the way if it is nearer than that.

    Stated by its author as `w x_1 + (1 - w) x_0` with `w = min(t / |x_0 - x_1|, 1)`, which is `x_1` clipped to `x_0 - t .. x_0 + t`. mergekit bounds
    the divisor by 1e-6, which makes a difference, of less than 1e-6, only where `t` is below that.

    Args:
        slab: base and one input.
        t: the farthest that a value may move.
    """
    assert slab.base is not None, "required"
    return slab.tensors[0].clamp(slab.base - t, slab.base + t)
