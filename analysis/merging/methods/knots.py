"""Updates brought into one common basis before they are merged: of adapters most of all."""

import torch
from torch import Tensor

from weightspace.analysis.merging.election import elect, total
from weightspace.analysis.merging.method import Each, Share, Slab, merge_method
from weightspace.analysis.merging.spectrum import added, spectrum, task_matrices
from weightspace.errors import MergeError


@merge_method(
    "knots",
    paper="Stoica et al., Model merging with SVD to tie the KnOTS (arXiv:2410.19735)",
    promises=("identity", "order", "absence", "permutation"),
    whole=True,
)
def knots(
    slab: Slab, *, weight: Each = (1.0,), density: Share = (1.0,), lambda_: float = 1.0, normalize: bool = True, merge: str = "ties"
) -> Tensor:
    """`x_0 + L U C`: the updates side by side are `[d_1 .. d_N] = U S [V_1 .. V_N]`, and `C` merges the parts `S V_i`, all in the basis `U`.

    The parts are merged by `ties`: of each the share `density` of largest magnitude is kept, the sign of the weighted sum is elected
    (zero counts as plus), and entries of that sign are summed, divided by the sum of their weights where `normalize`. Kernels of
    convolutions are matrices of one row for each output; of tensors with fewer axes the deltas themselves are merged.

    Merging is linear in the basis: with `merge: linear` the answer is `x_0 + L sum_i w_i d_i` (over `sum_i w_i` where `normalize`), as without any
    basis, and is for comparison only, at density 1. Departures: we trim each tensor by itself, the authors' code all tensors of a model together; like
    that code, and unlike the paper's text, the singular values go with the `V_i`, so that trimming spares what is large in the update.
    Where singular values are equal the basis is the solver's choice.

    Args:
        slab: with a base.
        weight: `w_i`; a model of weight 0 has no part in the basis either.
        density: share of `S V_i` that is kept, at least one entry; all that are as large as the smallest kept are kept.
        lambda_: `L`.
        normalize: whether sums are divided by the weights in them.
        merge: `ties` or `linear`.

    Raises:
        MergeError: another way to merge.
    """
    if merge not in ("ties", "linear"):
        raise MergeError(f"merge method 'knots' merges by ties or linear, found merge: {merge!r}; name one of them")
    there = [given for given in zip(task_matrices(slab), weight, density, strict=True) if given[1]]
    if not there:
        return added(slab, torch.zeros_like(slab.tensors[0]), lambda_)
    matrices, weights, densities = (tuple(column) for column in zip(*there, strict=True))
    parts, basis = _tied(matrices, slab.tensors[0].dtype) if matrices[0].ndim > 1 else (matrices, None)
    kept = (_trimmed(part, share) for part, share in zip(parts, densities, strict=True))
    merged = (elect if merge == "ties" else total)(kept, weights, normalize)
    return added(slab, merged if basis is None else basis @ merged, lambda_)


def _tied(matrices: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[tuple[Tensor, ...], Tensor]:
    """Each update in the basis that all share, and the basis."""
    common = spectrum(torch.cat(matrices, 1), dtype)
    return (common.values[:, None] * common.right).chunk(len(matrices), 1), common.left


def _trimmed(part: Tensor, density: float) -> Tensor:
    magnitudes = part.abs().flatten()
    dropped = magnitudes.numel() - max(1, int(density * magnitudes.numel()))
    if dropped <= 0:
        return part.clone()
    return part * (part.abs() >= magnitudes.kthvalue(dropped + 1).values)
