"""A group that stands on both axes of a tensor: Frank-Wolfe on the doubly stochastic matrices, rounded, taken if it rises.

Vogelstein et al., Fast approximate quadratic programming (arXiv:1112.5507): the gradient's best vertex is an assignment, the
step to it has a closed form since the objective is quadratic along the way.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from weightspace.analysis.matching.assignment import assign
from weightspace.analysis.matching.pair import Local, PairBlock, inner, kernel

if TYPE_CHECKING:
    from weightspace.analysis.matching.weight import Descent

STEPS = 30


def improve(state: "Descent", at: int, found: Mapping[str, Local]) -> tuple[dict[str, Local], float]:
    """The better of a linearised assignment and a Frank-Wolfe solution, with how much the true objective rises.

    Args:
        state: the running alignment.
        at: the family.
        found: what the linearised gains led to.
    """
    family = state.pair.families[at]
    blocks = [state.pair.blocks[k] for k in family.blocks]

    def value(actions: Mapping[str, Local]) -> float:
        moved = {**state.actions, **actions}
        return sum(inner(x.a, x.moved(x.b, moved, frozenset())) for x in blocks)

    now = value({})
    best, height = dict(found), value(found)
    signs = any(action.diagonal is not None or action.matrix is not None for action in found.values())
    if height <= now and len(family.members) == 1 and not signs:
        rounded = {family.root: Local(_frank_wolfe(state, at))}
        if value(rounded) > height:
            best, height = rounded, value(rounded)
    return best, height - now


def _frank_wolfe(state: "Descent", at: int) -> Tensor:
    """A permutation near a stationary point of the relaxed objective, started at the present one."""
    family = state.pair.families[at]
    linear = state.kernels[at].get((family.root,))
    squares = [state.pair.blocks[k] for k in family.quadratic]
    others = {name: action for name, action in state.actions.items() if name != family.root}
    present = state.actions[family.root].as_matrix.to(squares[0].b)
    for _ in range(STEPS):
        slope = torch.zeros_like(present) if linear is None else linear.clone()
        for block in squares:
            slope += _slope(block, family.root, present, others)
        index = assign(slope, solver=state.rules.solver)
        step = Local(index).as_matrix.to(present) - present
        rise = float((slope * step).sum())
        if rise <= 1e-9 * float((slope * present).sum().abs()):
            break
        bend = sum(float((_slope(block, family.root, step, others) * step).sum()) / 2 for block in squares)
        present = present + step * (1.0 if bend >= 0 else min(1.0, -rise / (2 * bend)))
    rounded: Tensor = assign(present, solver=state.rules.solver)
    return rounded


def _slope(block: PairBlock, group: str, matrix: Tensor, others: Mapping[str, Local]) -> Tensor:
    """The gradient of <a, P b P^T> at P = matrix, in both places where the group stands."""
    first, second = (j for j, name in enumerate(block.groups) if name == group)
    moved = block.moved(block.b, others, frozenset({group}))

    def mixed(j: int) -> Tensor:
        turned: Tensor = torch.tensordot(matrix, moved, dims=([1], [j]))
        return turned.movedim(0, j)

    return kernel(block, (first,), block.a, mixed(second)) + kernel(block, (second,), block.a, mixed(first))
