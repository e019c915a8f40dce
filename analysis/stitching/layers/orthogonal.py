"""Rotations and reflections (orthogonal Procrustes)."""

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.moments import TOLERANCE
from weightspace.analysis.stitching.equations import Equations
from weightspace.analysis.stitching.layer import Affine, stitching_layer


@stitching_layer(
    "orthogonal", is_square=True, reference="Schonemann (Psychometrika 31, 1966); Csiszarik et al. (arXiv:2110.14633), orthogonal matching"
)
def orthogonal(equations: Equations, *, scale: bool = False) -> Affine:
    """The rotation or reflection of the units with the least squared error: `W = V U'` from the singular vectors of `Cxy = U S V'`.

    Samples are centred and there is an intercept, so that both representations may lie anywhere; Csiszarik et al. do neither, and their map turns
    around zero. In directions that do not vary on one side, of which data says nothing, it turns as little as can be.

    Args:
        equations: of what is taken and what is wanted.
        scale: whether one factor for all units is found besides, `sum(S) / tr(Cxx)`.
    """
    u, s, vh = torch.linalg.svd(equations.between)
    known = s > TOLERANCE * s[0] if bool(s[0] > 0) else torch.zeros_like(s, dtype=torch.bool)
    weight = (u[:, known] @ vh[known]).T
    idle_u, idle_v = u[:, ~known], vh[~known].T
    if idle_u.shape[1]:
        weight = weight + idle_v @ _nearest_rotation(idle_v.T @ idle_u) @ idle_u.T
    if scale:
        weight = weight * (s.sum() / equations.x.trace()).nan_to_num(posinf=0.0)
    return Affine(weight, equations.offset(weight))


def _nearest_rotation(matrix: Float[Tensor, "rows rows"]) -> Float[Tensor, "rows rows"]:
    """The orthogonal matrix nearest to another."""
    u, _, vh = torch.linalg.svd(matrix)
    nearest: Tensor = u @ vh
    return nearest


__all__ = ["orthogonal"]
