"""The best unit for each unit, which may be taken several times."""

import torch

from weightspace.analysis.stitching.equations import Equations
from weightspace.analysis.stitching.layer import Affine, stitching_layer
from weightspace.analysis.stitching.layers.permutation import slopes


@stitching_layer("semi_matching", reference="Li et al., Convergent learning (arXiv:1511.07543), section 3.2")
def semi_matching(equations: Equations) -> Affine:
    """To each unit wanted the one taken with the largest absolute correlation, by its own least squares factor, with an intercept.

    Li et al. take the largest correlation, and standardised units. How much better it is than `permutation` with a scale says how far from
    one-to-one units correspond.
    """
    best = equations.correlations.abs().argmax(0)
    units = torch.arange(len(best), device=best.device)
    weight = torch.zeros_like(equations.between.T)
    weight[units, best] = slopes(equations)[best, units]
    return Affine(weight, equations.offset(weight))


__all__ = ["semi_matching"]
