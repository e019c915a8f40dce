"""Members of a group that could change places without any loss, so that no matching can tell them apart."""

from torch import Tensor

from weightspace.analysis.matching.pair import UNSIGNED
from weightspace.analysis.matching.weight import TOLERANCE, Descent


def ties_of(state: Descent) -> dict[str, int]:
    """For groups without children or parents, how many members could change places with another without any loss."""
    found: dict[str, int] = {}
    for at, family in enumerate(state.pair.families):
        if len(family.members) > 1 or family.quadratic or state.actions[family.root].matrix is not None:
            continue
        kernels = state.update(at)
        gains, unsigned = kernels.get((family.root,)), kernels.get((family.root + UNSIGNED,))
        if gains is None:
            continue
        worth = gains.abs() if family.root in state.rules.signed else gains
        count = ties(worth if unsigned is None else worth + unsigned, state.actions[family.root].index)
        if count:
            found[family.root] = count
    return found


def ties(gains: Tensor, index: Tensor) -> int:
    """Count the members that could change places with another without any loss.

    Args:
        gains: what a's member i gains from b's member j, shape (n, n).
        index: the assignment.
    """
    index = index.to(gains.device)
    table = gains[:, index]
    own = table.diagonal()
    loss = own[:, None] + own[None, :] - table - table.T
    loss.fill_diagonal_(float("inf"))
    return int((loss.abs() <= TOLERANCE * table.abs().max()).any(1).sum())
