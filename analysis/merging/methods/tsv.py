"""Task singular vectors: the strongest directions of each task, made orthogonal to those of the others."""

import torch
from torch import Tensor

from weightspace.analysis.merging.method import Slab, merge_method
from weightspace.analysis.merging.spectrum import added, joined, spectrum, task_matrices


@merge_method(
    "tsv",
    paper="Gargiulo et al., Task singular vectors: reducing task interference in model merging (arXiv:2412.00081), TSV-M",
    promises=("identity", "order", "permutation"),
    whole=True,
)
def tsv(slab: Slab, *, lambda_: float = 1.0) -> Tensor:
    """`x_0 + L U S V^T`: of each task matrix `d_i = U_i S_i V_i^T` the first 1/N of its singular vectors, side by side, made orthonormal.

    `U = [U_1 .. U_N]` and `V` are replaced by the nearest matrices with orthonormal columns (whitening: `P Q^T` of `U = P D Q^T`); the singular
    values stay. Kernels of convolutions are matrices of one row for each output; biases, norms and the like take the mean delta, as in
    the authors' code.

    Departures: at least one singular vector of each task is kept, where the paper's 1/N of the rank rounds to none; directions of no
    size do not count, and of directions that several tasks share exactly there is one, so the answer does not hang on what a solver
    makes of a null space. Where singular values are equal on both sides of the cut, which of their directions stay is the solver's
    choice all the same.

    Args:
        slab: with a base.
        lambda_: `L`, the paper's alpha.
    """
    matrices, dtype = task_matrices(slab), slab.tensors[0].dtype
    if matrices[0].ndim < 2:
        return added(slab, torch.stack(matrices).mean(0), lambda_)
    rank = max(1, min(matrices[0].shape) // len(matrices))
    parts = joined([spectrum(matrix, dtype).first(rank) for matrix in matrices], dtype)
    return added(slab, (parts.left * parts.values) @ parts.right, lambda_)
