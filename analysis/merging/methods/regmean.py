"""The layer whose outputs are nearest to those of all models, each on its own data."""

from typing import Annotated

import torch
from torch import Tensor

from weightspace.analysis.merging.evidence import evidence_of
from weightspace.analysis.merging.method import Between, Each, Slab, merge_method
from weightspace.analysis.merging.methods.linear import linear
from weightspace.errors import MergeError


@merge_method(
    "regmean",
    paper="Jin et al., Dataless knowledge fusion by merging weights of language models (arXiv:2212.09849)",
    promises=("identity", "order", "absence", "permutation"),
    base="none",
    whole=True,
    evidence=("gram",),
)
def regmean(
    slab: Slab,
    *,
    weight: Annotated[Each, Between(0, float("inf"))] = (1.0,),
    ratio: Annotated[float, Between(0, 1)] = 0.9,
    ridge: Annotated[float, Between(0, float("inf"), open=True)] = 1e-6,
) -> Tensor:
    """`W^T = (sum_i w_i G_i)^-1 sum_i w_i G_i W_i^T` with the Gram matrix `G_i = X_i^T X_i / n_i` of the layer's inputs in each model.

    That is least squares: of all layers the one with the least `sum_i w_i |X_i W^T - X_i W_i^T|^2 / n_i`. Tensors without a Gram matrix
    (biases, norms, embeddings) become the average weighted by `weight`. Kernels of convolutions are layers of unfolded patches.

    Departures: the paper sums over examples where we take means, so a model counts as many examples as any other; weights `n_i` give
    its formula back. A ridge draws directions that no data have to the weighted average instead of leaving them to the solver; the
    system is solved in float64, so the answer is off by about 1e-16 times the condition number, which the ridge keeps below `1 / ridge`
    times the number of inputs.

    Args:
        slab: with the evidence `gram`, as `evidence.gram` computes it.
        weight: `w_i`.
        ratio: what elements of the Gram matrices off the diagonal are multiplied by; 1 is least squares proper, less leans on
            single inputs, against overfitting to few examples; 0.9 is usual.
        ridge: added to the diagonal, as a share of its mean.

    Raises:
        MergeError: a Gram matrix for some models only, or of another size.
    """
    average = linear(slab, weight=weight)
    found = evidence_of(slab, "gram")
    if found is None or not average.numel():
        return average
    is_input_first = found[0].ndim == 3
    width = slab.tensors[0].shape[0] if is_input_first else slab.tensors[0][0].numel()
    for one in found:
        if one.shape not in ((width, width), (1, width, width)):
            raise MergeError(
                f"the Gram matrix of tensor '{slab.name}' has shape {tuple(one.shape)}, expected {(width, width)} for weights of shape "
                f"{tuple(slab.tensors[0].shape)}; compute it with evidence.gram on this very model"
            )
    # Solved for the change from the average, towards which the ridge then draws.
    gram, wanted = (average.new_zeros(width, columns, dtype=torch.float64) for columns in (width, average.numel() // width))
    for tensor, share, one in zip(slab.tensors, weight, found, strict=True):
        whole = one.view(width, width).to(gram)
        matrix = (whole * ratio).diagonal_scatter(whole.diagonal())
        change = tensor.double() - average.double()
        wanted.addmm_(matrix, change if is_input_first else change.flatten(1).T, alpha=share)
        gram.add_(matrix, alpha=share)
    mean = gram.diagonal().mean()
    if mean == 0:
        return average
    gram.diagonal().add_(ridge * mean)
    solved = torch.cholesky_solve(wanted, torch.linalg.cholesky(gram))
    change = solved if is_input_first else solved.T
    return (average.double() + change.reshape(average.shape)).to(average.dtype)
