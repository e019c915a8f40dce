"""One model as it is, or scaled."""

from torch import Tensor

from weightspace.analysis.merging.method import Each, Slab, merge_method


@merge_method("passthrough", paper="none: a copy", promises=("permutation",), base="none", inputs=(1, 1))
def passthrough(slab: Slab, *, scale: Each = (1.0,)) -> Tensor:
    """Return `scale x_1`: the way to stack layers of several models, each slice from one of them.

    Args:
        slab: one input.
        scale: what it is multiplied by; the bits stay as they are at 1.
    """
    return slab.tensors[0].clone() if scale[0] == 1 else slab.tensors[0] * scale[0]
