"""Isotropic merging: the directions of the summed task matrices, all given one size."""

from typing import Annotated

import torch
from torch import Tensor

from weightspace.analysis.merging.method import Between, Slab, merge_method
from weightspace.analysis.merging.spectrum import Spectrum, added, joined, spectrum, task_matrices

_PAPER = "Marczak et al., No task left behind: isotropic model merging with common and task-specific subspaces (arXiv:2502.04959)"


@merge_method("iso_c", paper=f"{_PAPER}, Iso-C", promises=("identity", "order", "permutation"), whole=True)
def iso_c(slab: Slab, *, lambda_: float = 1.0) -> Tensor:
    """`x_0 + L s U V^T`, where `sum_i d_i = U S V^T` and `s` is the mean of the singular values.

    Kernels of convolutions are matrices of one row for each output; biases, norms and the like take the mean delta, as in the authors'
    code. The smallest direction counts as much as the largest, so the answer is as sensitive to noise as the sum is ill-conditioned;
    directions of no size stay out, of the mean too (the paper's sums have full rank; of low-rank updates this keeps the rank).

    Args:
        slab: with a base.
        lambda_: `L`, the paper's alpha; the best is found on held-out data.
    """
    matrices, dtype = task_matrices(slab), slab.tensors[0].dtype
    if matrices[0].ndim < 2:
        return added(slab, torch.stack(matrices).mean(0), lambda_)
    common = spectrum(torch.stack(matrices).sum(0), dtype)
    return added(slab, _isotropic(common), lambda_)


@merge_method("iso_cts", paper=f"{_PAPER}, Iso-CTS", promises=("identity", "order", "permutation"), whole=True)
def iso_cts(slab: Slab, *, lambda_: float = 1.0, common_space_fraction: Annotated[float, Between(0, 1)] = 0.8) -> Tensor:
    """As `iso_c`, but the weakest directions of the sum make room for the strongest that single tasks have beside it.

    Of the sum the first `k` singular vectors are kept; of each `d_i` with their left span taken out, `d_i - U_k U_k^T d_i`, the first
    `(r - k) / N`, rounded; `k` is about `common_space_fraction` of the rank `r`, such that nothing remains. All of them side by side are made
    orthonormal (as in `tsv`) and given the mean of their singular values as size. Departures as in `iso_c`.

    Args:
        slab: with a base.
        lambda_: `L`, the paper's alpha.
        common_space_fraction: of the rank that the sum keeps; 1 is `iso_c`.
    """
    matrices, dtype = task_matrices(slab), slab.tensors[0].dtype
    if matrices[0].ndim < 2:
        return added(slab, torch.stack(matrices).mean(0), lambda_)
    rank = min(matrices[0].shape)
    own = round((rank - int(rank * common_space_fraction)) / len(matrices))
    common = spectrum(torch.stack(matrices).sum(0), dtype).first(max(0, rank - own * len(matrices)))
    rests = [matrix - common.left @ (common.left.T @ matrix) for matrix in matrices]
    specific = [spectrum(rest, dtype, part_of=matrix).first(own) for rest, matrix in zip(rests, matrices, strict=True)]
    return added(slab, _isotropic(joined([common, *specific], dtype)), lambda_)


def _isotropic(parts: Spectrum) -> Tensor:
    """The matrix with the same directions, each of the mean size."""
    return (parts.left @ parts.right) * (parts.values.mean() if len(parts.values) else 0.0)
