"""Least squares through few directions (reduced-rank regression)."""

import torch

from weightspace.analysis.stitching.equations import Equations
from weightspace.analysis.stitching.layer import Affine, stitching_layer
from weightspace.analysis.stitching.layers.linear import least_squares
from weightspace.errors import AnalysisError


@stitching_layer(
    "low_rank", reference="Izenman (Journal of Multivariate Analysis 5, 1975); Csiszarik et al. (arXiv:2110.14633), low-rank matching"
)
def low_rank(equations: Equations, *, rank: int = 16, ridge: float | None = None) -> Affine:
    """The affine map of a rank at most with the least squared error: `V V' W`, where W is the least squares map.

    V holds the first right singular vectors of the fitted values, which are eigenvectors of their second moments `W Cxx W'`; so no samples are
    needed. They are centred, unlike in Csiszarik et al., where one direction goes to the mean.

    Args:
        equations: of what is taken and what is wanted.
        rank: how many directions pass; all of them where it is the width or more.
        ridge: see `linear`.

    Raises:
        AnalysisError: the rank is not positive.
    """
    if rank < 1:
        raise AnalysisError(f"expected a rank of 1 or more, found {rank}; give the number of directions that pass")
    weight = least_squares(equations, ridge)
    if rank < min(weight.shape):
        _, vectors = torch.linalg.eigh(weight @ equations.x @ weight.T)
        first = vectors[:, -rank:]
        weight = first @ (first.T @ weight)
    return Affine(weight, equations.offset(weight))


__all__ = ["low_rank"]
