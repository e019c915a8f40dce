"""Units as they are, a control."""

import torch

from weightspace.analysis.stitching.equations import Equations
from weightspace.analysis.stitching.layer import Affine, stitching_layer


@stitching_layer("identity", is_square=True, is_control=True)
def identity(equations: Equations) -> Affine:
    """Each unit to the unit in its place: what two networks share without being matched."""
    weight = torch.eye(len(equations.x), dtype=equations.x.dtype, device=equations.x.device)
    return Affine(weight, weight.new_zeros(len(weight)))


__all__ = ["identity"]
