"""Members of a group that could change places without any loss, so that no matching can tell them apart."""

from torch import Tensor

from weightspace.analysis.matching.weight import TOLERANCE, Descent


def ties_of(state: Descent) -> dict[str, int]:
    """For groups without children or parents, how many members could change places with another without any loss."""
    found: dict[str, int] = {}
    for at, family in enumerate(state.pair.families):
        if len(family.members) > 1 or family.quadratic or state.actions[family.root].matrix is not None:
            continue
        gains = state.update(at).get((family.root,))
        if gains is None:
            continue
        count = ties(gains, state.actions[family.root].index, signed=family.root in state.rules.signed)
        if count:
            found[family.root] = count
    return found


def ties(gains: Tensor, index: Tensor, *, signed: bool) -> int:
    """Count the members that could change places with another without any loss.

    Args:
        gains: what a's member i gains from b's member j, shape (n, n).
        index: the assignment.
        signed: whether members may change sign.
    """
    index = index.to(gains.device)
    table = gains[:, index].abs() if signed else gains[:, index]
    own = table.diagonal()
    loss = own[:, None] + own[None, :] - table - table.T
    loss.fill_diagonal_(float("inf"))
    return int((loss <= TOLERANCE * table.abs().max()).any(1).sum())
