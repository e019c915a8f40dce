"""Least squares with a ridge."""

import torch

from weightspace.analysis.moments import Moments
from weightspace.analysis.stitching.layer import Affine, stitching_layer


@stitching_layer(
    "linear", reference="Pan et al., Stitchable Neural Networks (arXiv:2302.06586), section 3.2; Csiszarik et al. (arXiv:2110.14633)"
)
def linear(moments: Moments, *, ridge: float = 1e-6) -> Affine:
    """The affine map with the least squared error, from normal equations in float64; the intercept is not shrunk.

    `W = Cyx (Cxx + r I)^-1`, where C are centred second moments and r is `ridge` times the mean variance of the units taken (an addition: with few
    samples the pseudo-inverse of the papers follows noise). On a network's own cut it is the identity, up to the rank of what crosses there.

    Args:
        moments: of what is taken and what is wanted.
        ridge: as a share of the mean variance of the units taken.
    """
    cross = moments.x.cross
    shrunk = cross + torch.eye(len(cross), dtype=cross.dtype, device=cross.device) * (ridge * cross.diag().mean()).clamp(min=1e-30)
    weight = torch.linalg.solve(shrunk, moments.between.cross).T
    taken, wanted = moments.between.means
    return Affine(weight, wanted - weight @ taken)
