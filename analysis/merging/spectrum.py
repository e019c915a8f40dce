"""Decompositions of task matrices, in which directions of no size do not count."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.merging.method import Slab
from weightspace.errors import MergeError


@dataclass(frozen=True)
class Spectrum:
    """A thin singular value decomposition `left @ diag(values) @ right` in float64, largest values first.

    Singular values that are zero but for rounding are left out, with their vectors: those are whatever the solver made up, and methods
    that give all directions one size would blow them up.

    Attributes:
        left: columns are the left singular vectors.
        values: the singular values.
        right: rows are the right singular vectors.
    """

    left: Float[Tensor, "rows rank"]
    values: Float[Tensor, " rank"]
    right: Float[Tensor, "rank columns"]

    def first(self, rank: int) -> "Spectrum":
        """The leading singular values, as many as there are, with their vectors."""
        return Spectrum(self.left[:, :rank], self.values[:rank], self.right[:rank])


def spectrum(matrix: Float[Tensor, "rows columns"], dtype: torch.dtype, part_of: Tensor | None = None) -> Spectrum:
    """Decompose a matrix.

    Args:
        matrix: in float64.
        dtype: of the values that it was made from, whose rounding tells what is zero: singular values up to `eps * max(rows, columns)` of
            the largest.
        part_of: what is left of which the matrix is, where it is a difference: rounding is as large as that.

    Raises:
        MergeError: values that are NaN or infinite; no direction is larger than those, so that everything else would be lost.
    """
    if not bool(matrix.isfinite().all()):
        raise MergeError("a difference from the base is NaN or infinite, and has no singular values; look at the models")
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    size = values[:1] if part_of is None else torch.linalg.matrix_norm(part_of)
    floor = torch.finfo(dtype).eps * max(matrix.shape) * size
    return Spectrum(left, values, right).first(int((values > floor).sum()))


def joined(parts: list[Spectrum], dtype: torch.dtype) -> Spectrum:
    """Put decompositions side by side and make their vectors orthonormal: the nearest that are, by Procrustes (whitening).

    With left vectors `U = [U_1 .. U_N] = P D Q^T` that is `P Q^T`, and likewise on the right; values stay. Of vectors that are not
    linearly independent many are as near; these are the smallest, which are orthonormal in the space that the given ones span.
    """
    left = spectrum(torch.cat([part.left for part in parts], 1), dtype)
    right = spectrum(torch.cat([part.right for part in parts], 0), dtype)
    return Spectrum(left.left @ left.right, torch.cat([part.values for part in parts]), right.left @ right.right)


def task_matrices(slab: Slab) -> tuple[Tensor, ...]:
    """What each input differs from the base by, in float64: one row for each output, kernels flattened; vectors as they are."""
    assert slab.base is not None
    base = slab.base.double()
    deltas = (tensor.double() - base for tensor in slab.tensors)
    return tuple(delta.flatten(1) if delta.ndim > 1 else delta for delta in deltas)


def added(slab: Slab, change: Tensor, scale: float) -> Tensor:
    """The base with a change times a scale, rounded once."""
    assert slab.base is not None
    return (slab.base.double() + scale * change.view_as(slab.base)).to(slab.base.dtype)


__all__ = ["Spectrum", "added", "joined", "spectrum", "task_matrices"]
