"""Least squares with a ridge."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.moments import TOLERANCE
from weightspace.analysis.stitching.equations import Equations
from weightspace.analysis.stitching.layer import Affine, stitching_layer
from weightspace.errors import AnalysisError

RIDGES = tuple(10.0**power for power in range(-10, 2))
"""Shares of the variance among which a ridge is chosen."""


@stitching_layer(
    "linear", reference="Pan et al., Stitchable Neural Networks (arXiv:2302.06586), section 3.2; Csiszarik et al. (arXiv:2110.14633)"
)
def linear(equations: Equations, *, ridge: float | None = None) -> Affine:
    """The affine map with the least squared error, from normal equations in float64; the intercept is not shrunk.

    `W = Cyx (Cxx + r I)^-1`, where C are centred second moments and r is `ridge` times the mean variance of the units taken (an addition: with few
    samples the pseudo-inverse of the papers follows noise). On a network's own cut it is the identity, up to the rank of what crosses there.

    Args:
        equations: of what is taken and what is wanted.
        ridge: as a share of the mean variance of the units taken; 0 is the pseudo-inverse. By default it is chosen by generalised
            cross-validation (Golub, Heath and Wahba, Technometrics 21, 1979), so that where nothing is missed there is none to speak of.
    """
    weight = least_squares(equations, ridge)
    return Affine(weight, equations.offset(weight))


def least_squares(equations: Equations, ridge: float | None) -> Float[Tensor, "wanted taken"]:
    """The map of units with the least squared error about the means.

    Raises:
        AnalysisError: the ridge is negative or no number.
    """
    if ridge is not None and not 0 <= ridge < math.inf:
        raise AnalysisError(f"expected a ridge of 0 or more, found {ridge}; give a share of the variance, such as 1e-6")
    values, vectors = torch.linalg.eigh(equations.x)
    held = values > TOLERANCE * values[-1].clamp(min=0)
    values, vectors = values[held], vectors[:, held]
    turned = vectors.T @ equations.between
    if not len(values):
        return equations.between.new_zeros(equations.between.T.shape)
    unit = equations.x.diag().mean()
    share = _cross_validated(equations, values, turned.square().sum(1), unit) if ridge is None else ridge
    weight: Tensor = (vectors @ (turned / (values + share * unit)[:, None])).T
    return weight


def _cross_validated(equations: Equations, values: Tensor, explained: Tensor, unit: Tensor) -> float:
    """The ridge with the least squared error over the square of the degrees of freedom that are left."""

    def score(share: float) -> float:
        kept = values / (values + share * unit)
        missed = equations.y.trace() - (explained / values * kept * (2 - kept)).sum()
        free = equations.count - 1 - float(kept.sum())
        # Where a map goes through every sample, what it misses is rounding, and says nothing.
        return float(missed.clamp(min=0)) / free**2 if free > 1e-3 * equations.count else math.inf

    return min(RIDGES, key=score)


__all__ = ["RIDGES", "least_squares", "linear"]
