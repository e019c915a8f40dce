"""Doubly stochastic matrices in the place of permutations: made by Sinkhorn iterations, applied to weights, and judged."""

from collections.abc import Mapping
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.matching.pair import Local, Pair
from weightspace.axes import Leaf
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import mix


def sinkhorn(scores: Float[Tensor, "n n"], *, rounds: int = 100, tolerance: float = 1e-4) -> Float[Tensor, "n n"]:
    """Scale the exponentials of scores until rows and columns add up to one; differentiable at the cost of one linear system.

    Sinkhorn and Knopp (1967), in log space. The gradient is that of the fixed point by the implicit function theorem, as in Eisenberger
    et al. (arXiv:2205.06688) and Peña et al. (arXiv:2212.12042), section 3.3: no iteration is remembered.

    Args:
        scores: logarithms of what is scaled, already divided by the temperature.
        rounds: the most iterations.
        tolerance: of the logarithms of the row sums, at which to stop.
    """
    return cast(Tensor, _Sinkhorn.apply(scores, rounds, tolerance))  # type: ignore[no-untyped-call]


class _Sinkhorn(torch.autograd.Function):
    """Sinkhorn's fixed point, with its implicit gradient."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, rounds: int, tolerance: float) -> Tensor:
        logs = scores - scores.logsumexp(0, keepdim=True)
        for _ in range(rounds):
            sums = logs.logsumexp(1, keepdim=True)
            if float(sums.abs().max()) < tolerance:
                break
            logs = logs - sums
            logs = logs - logs.logsumexp(0, keepdim=True)
        made = logs.exp()
        ctx.save_for_backward(made)
        return made

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, None, None]:
        (made,) = ctx.saved_tensors
        weighted = made * slopes[0]
        # Rows and columns keep their sums: u + P v = rows, P^T u + v = columns. One constant is free between u and v, which the mean of v
        # being zero settles; the small ridge is for matrices near a permutation, where nothing else is left of the system.
        rows, columns = weighted.sum(1), weighted.sum(0)
        eye = torch.eye(len(made), dtype=made.dtype, device=made.device)
        system = eye * (1 + 1e-9) - made.T @ made + 1 / len(made)
        v = torch.linalg.solve(system, columns - made.T @ rows)
        u = rows - made @ v
        return weighted - made * (u[:, None] + v[None, :]), None, None


def softly(spec: SymmetrySpec, name: str, tensor: Tensor, matrices: Mapping[str, Tensor]) -> Tensor:
    """Mix the members of some groups in one tensor, as permutations would move them: the same on both sides.

    Args:
        spec: of the tensor.
        name: of the tensor.
        tensor: floats.
        matrices: doubly stochastic, with signs where the group has them, of groups without parents; gradients flow into them.
    """
    places = torch.arange(tensor.numel(), device=tensor.device).reshape(tensor.shape)
    parts: list[Tensor] = []
    where: list[Tensor] = []
    for at, old in zip(spec.blocks(name, places), spec.blocks(name, tensor), strict=True):
        values = old.view
        for j, term in enumerate(old.terms):
            if isinstance(term, Leaf) and term.group in matrices:
                matrix = matrices[term.group]
                values = mix(values, matrix if term.power % 2 else matrix.abs(), (), j)
        parts.append(values.flatten())
        where.append(at.view.flatten())
    # Put together by an order, not written into one tensor: gradients do not flow through several views of it.
    return torch.cat(parts)[torch.cat(where).argsort()].reshape(tensor.shape)


def relaxed_value(pair: Pair, held: Mapping[str, Local], matrices: Mapping[str, Tensor]) -> Float[Tensor, ""]:
    """The inner product of a with b moved by a matrix for some groups and by actions for others; differentiable in the matrices."""
    actions = {**held, **{name: Local(torch.arange(len(matrix)), matrix=matrix) for name, matrix in matrices.items()}}
    return torch.stack([(x.a * x.moved(x.b, actions, ())).sum(dtype=torch.float64) for x in pair.blocks]).sum()
