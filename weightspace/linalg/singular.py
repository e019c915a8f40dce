"""Singular triplets: the value that holds them, with how it was obtained, and full decompositions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import AnalysisError
from weightspace.linalg.threads import threads_for

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # torch documents it, but does not declare it

Method = Literal["exact", "certified"]
"""`exact`: by a full decomposition. `certified`: by iteration, and proved to be the largest."""


@dataclass(frozen=True, eq=False)
class Singular:
    """Singular triplets of a matrix, or of a stack of matrices: about `u @ diag(s) @ v.T`.

    Attributes:
        u: left vectors, a column each.
        s: singular values, descending.
        v: right vectors, a column each.
        method: how they were obtained.
        residual: the largest `|W v - s u|` or `|W.T u - s v|`, as a part of the largest value; 0 for full decompositions, which do not measure it.
            Of an updated matrix also what the decomposition of the base is off by, which is much where the update takes away what was large in it.
        following: the largest value that was left out, or 0; to a tenth of its distance from the last of `s`. Where it is close to the last of `s`, which vector comes last is chance.
        left: the left vectors in the basis of all left vectors of the matrix that was updated; None where none was.
        right: the right vectors in the basis of its right vectors.

    Example:
        >>> svd(torch.tensor([[3.0, 0.0], [0.0, -4.0]])).s
        tensor([4., 3.])
    """

    u: Float[Tensor, "*stack rows k"]
    s: Float[Tensor, "*stack k"]
    v: Float[Tensor, "*stack columns k"]
    method: Method = "exact"
    residual: float = 0.0
    following: float = 0.0
    left: Float[Tensor, "rank k"] | None = None
    right: Float[Tensor, "rank k"] | None = None

    def __getitem__(self, index: int) -> "Singular":
        """The triplets of one matrix of a stack."""
        return replace(self, u=self.u[index], s=self.s[index], v=self.v[index])

    def first(self, k: int) -> "Singular":
        """The k largest triplets; all where there are fewer."""
        if k >= self.s.shape[-1]:
            return self
        left, right = (None if one is None else one[:, :k] for one in (self.left, self.right))
        following = float(self.s[..., k].max()) if self.s[..., k].numel() else 0.0
        return replace(self, u=self.u[..., :k], s=self.s[..., :k], v=self.v[..., :k], following=following, left=left, right=right)

    @property
    def transposed(self) -> "Singular":
        """The triplets of the transposed matrix."""
        return replace(self, u=self.v, v=self.u, left=self.right, right=self.left)

    @property
    def gaps(self) -> Float[Tensor, "*stack k"]:
        """How far each value is from its nearest neighbour, as a part of the largest; small ones belong to vectors that rounding turns."""
        beyond = torch.cat([self.s, torch.full_like(self.s[..., :1], self.following)], dim=-1)
        below = beyond[..., :-1] - beyond[..., 1:]
        above = torch.cat([torch.full_like(below[..., :1], torch.inf), below[..., :-1]], dim=-1)
        return torch.minimum(above, below) / self.s[..., :1].clamp_min(torch.finfo(self.s.dtype).tiny)

    def matrix(self) -> Float[Tensor, "*stack rows columns"]:
        """The matrix, or its best approximation of this rank."""
        return (self.u * self.s.unsqueeze(-2)) @ self.v.mT


def svd(matrix: Float[Tensor, "*stack rows columns"]) -> Singular:
    """Decompose a matrix, or each of a stack in one call, in float32 or its own wider dtype.

    Values are good to a few roundings of the largest; a vector to as many, divided by its gap (see `Singular.gaps`).

    Raises:
        AnalysisError: NaN or infinities, or a matrix on which LAPACK fails.
    """
    wide = finite(matrix)
    try:
        with threads_for(min(wide.shape[-2:])):
            u, s, vh = torch.linalg.svd(wide, full_matrices=False)
    except LinAlgError:
        u, s, vh = _slowly(wide)
    return Singular(u, s, vh.mT)


def _slowly(wide: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Decompose by QR iteration, which converges where divide and conquer, that torch and everybody else begins with, fails on repeated values.

    Raises:
        AnalysisError: it fails, too.
    """
    import numpy as np
    from scipy.linalg import svd as decomposed

    if wide.ndim > 2:
        u, s, vh = (torch.stack(parts) for parts in zip(*(_slowly(one) for one in wide), strict=True))
        return u, s, vh
    try:
        found = decomposed(wide.cpu().numpy(), full_matrices=False, lapack_driver="gesvd")
    except np.linalg.LinAlgError:
        raise AnalysisError(
            f"expected singular values of a matrix of shape {tuple(wide.shape)}, found that no method of LAPACK converges on it; leave it out"
        ) from None
    u, s, vh = (torch.from_numpy(part.copy()).to(wide) for part in found)
    return u, s, vh


def singular_values(matrix: Float[Tensor, "*stack rows columns"]) -> Float[Tensor, "*stack k"]:
    """Take the singular values of a matrix, or of each of a stack in one call, in float64, descending.

    Of the Gram matrix in float64: good to 1e-8 of the largest value, which is what float32 weights know of themselves, and to more
    for all but tiny values. Float64 weights are decomposed as they are.

    Raises:
        AnalysisError: NaN or infinities, or a matrix on which LAPACK fails.

    Example:
        >>> singular_values(torch.tensor([[3.0, 0.0], [0.0, -4.0]]))
        tensor([4., 3.], dtype=torch.float64)
    """
    wide = finite(matrix)
    values: Tensor
    try:
        with threads_for(min(wide.shape[-2:])):
            if wide.dtype == torch.float64:
                values = torch.linalg.svdvals(wide)
            else:
                values = torch.linalg.eigvalsh(gram(wide.double())).flip(-1).clamp_min(0).sqrt()
    except LinAlgError:
        values = _slowly(wide.double())[1]
    return values


Matrices = TypeVar("Matrices", Singular, Tensor)


def each(function: Callable[[Tensor], Matrices], matrices: Sequence[Float[Tensor, "_ _"]]) -> list[Matrices]:
    """Apply `svd` or `singular_values` to many matrices, in their order; those of one shape, dtype and device go in one call.

    Example:
        >>> [values.tolist() for values in each(singular_values, [torch.eye(2), torch.ones(1, 1), 2 * torch.eye(2)])]
        [[1.0, 1.0], [1.0], [2.0, 2.0]]
    """
    alike: dict[object, list[int]] = {}
    for at, matrix in enumerate(matrices):
        alike.setdefault((matrix.shape, matrix.dtype, matrix.device), []).append(at)
    found: dict[int, Matrices] = {}
    for places in alike.values():
        together = function(torch.stack([matrices[at] for at in places]))
        for index, at in enumerate(places):
            found[at] = together[index]
    return [found[at] for at in range(len(matrices))]


def gram(wide: Float[Tensor, "*stack rows columns"]) -> Float[Tensor, "*stack k k"]:
    """Multiply a matrix with its transpose, on its shorter side; half of the work, since the product is symmetric."""
    short = wide if wide.shape[-2] <= wide.shape[-1] else wide.mT
    size = short.shape[-2]
    product = short.new_empty((*short.shape[:-1], size))
    step = max(256, -(-size // 8))
    for start in range(0, size, step):
        rows = slice(start, min(start + step, size))
        product[..., rows, : rows.stop] = short[..., rows, :] @ short[..., : rows.stop, :].mT
        product[..., :start, rows] = product[..., rows, :start].mT
    return product


def finite(matrix: Tensor) -> Tensor:
    """A matrix in float32 or its own wider dtype, once it has no NaN and no infinities.

    Raises:
        AnalysisError: it has, or is not of real floating-point numbers.
    """
    if not matrix.is_floating_point():
        raise AnalysisError(f"expected a matrix of real floating-point numbers, found {matrix.dtype}; convert it first")
    wide = (matrix if matrix.dtype in (torch.float32, torch.float64) else matrix.float()).detach()
    if not bool(wide.sum().isfinite()) and not bool(wide.isfinite().all()):  # a sum may overflow where no entry is infinite
        bad = int((~wide.isfinite()).sum())
        raise AnalysisError(
            f"expected finite numbers, found {bad} NaN or infinite of {wide.numel()} in a matrix of shape {tuple(wide.shape)}; leave it out, or repair it"
        )
    return wide
