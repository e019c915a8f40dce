"""Random weights, a control."""

import math

import torch

from weightspace.analysis.stitching.equations import Equations
from weightspace.analysis.stitching.layer import Affine, stitching_layer


@stitching_layer("random", is_control=True, reference="He et al. (arXiv:1502.01852), equation 10")
def random(equations: Equations, *, generator: torch.Generator) -> Affine:
    """Weights drawn as for a layer that is to be trained, of variance 2 / units taken, and no bias."""
    taken, given = equations.widths
    drawn = torch.randn(given, taken, generator=generator, dtype=torch.float64, device=generator.device)
    weight = drawn.to(equations.x.device) * math.sqrt(2 / taken)
    return Affine(weight, weight.new_zeros(given))


__all__ = ["random"]
