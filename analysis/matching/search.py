"""One search for an alignment: where it starts, in which order families are visited, and how it leaves a local optimum.

Algorithm 1 of Git Re-Basin (arXiv:2209.04836) visits groups in random order from the identity, which says nothing about two
networks that were trained apart. Here a first round goes through the network in its own order and counts only blocks whose other
groups are assigned already; a family is visited again only when one beside it has moved; and small networks are shaken: one
family is forgotten, those beside it are assigned without it, all descend again, and what is higher is kept (iterated local
search; Lourenco, Martin & Stutzle 2003).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from weightspace.analysis.matching.family import Rules
from weightspace.analysis.matching.pair import Local, Pair
from weightspace.analysis.matching.ties import ties_of
from weightspace.analysis.matching.weight import TOLERANCE, Descent

SMALL = 300_000  # weights: below, a shake takes some milliseconds to some tens
SHAKES = 20  # of small networks


def usual_shakes(pair: Pair) -> int:
    """How often a network is shaken unless it is said."""
    return SHAKES if pair.size < SMALL else 0


@dataclass(frozen=True)
class Run:
    """How one descent went.

    Attributes:
        actions: what it found.
        objective: at the start and after each sweep.
        stopped: why it ended.
        assignments: how many families were solved.
        ties: for each group, how many members could change places with another without loss; groups without any left out.
    """

    actions: Mapping[str, Local]
    objective: tuple[float, ...]
    stopped: str
    assignments: int
    ties: Mapping[str, int] = field(default_factory=dict)


def descend(
    pair: Pair,
    rules: Rules,
    start: Mapping[str, Local],
    *,
    anchored: bool,
    max_sweeps: int,
    generator: torch.Generator,
    shakes: int = 0,
) -> Run:
    """Search once.

    Args:
        pair: the two sets of weights.
        rules: how members may be sent.
        start: actions to start from, one for each group.
        anchored: whether a first round builds the start from what is known, if that is the better start.
        max_sweeps: after which a descent stops.
        generator: of the order of visits, and of what is forgotten.
        shakes: how often to leave the optimum that was found and to descend again.
    """
    state, value = Descent(pair, rules, dict(start)), pair.value(start)
    if anchored:
        other = Descent(pair, rules, dict(start))
        _anchor(other)
        reached = pair.value(other.actions)
        if reached > value:
            state, value = other, reached
    objective = [value]
    ended = _sweep(state, objective, max_sweeps, generator)
    stopped = "no family could gain" if ended else f"stopped after {max_sweeps} sweeps"
    ceiling = pair.ceiling if shakes else 0.0
    for _ in range(shakes):
        if objective[-1] >= ceiling * (1 - TOLERANCE):  # the two are equal
            break
        kept = dict(state.actions)
        at = int(torch.randint(len(pair.families), (1,), generator=generator))
        state.forget(at)
        state.visit(at)
        risen = [pair.value(state.actions)]
        _sweep(state, risen, max_sweeps, generator)
        if risen[-1] > objective[-1] + TOLERANCE * abs(objective[-1]):
            objective.append(risen[-1])
        else:
            state.actions = kept
    return Run(state.actions, tuple(objective), stopped, state.assignments, ties_of(state))


def _sweep(state: Descent, objective: list[float], max_sweeps: int, generator: torch.Generator) -> bool:
    """Visit families in random order, those alone beside which something moved, and note the objective after each sweep.

    Returns:
        Whether it ended by itself.
    """
    pair, value = state.pair, objective[-1]
    stale = set(range(len(pair.families)))
    for _ in range(max_sweeps):
        for at in torch.randperm(len(pair.families), generator=generator).tolist():
            if at not in stale:
                continue
            stale.discard(at)
            rise = state.visit(at)
            if rise > 0:
                value += rise
                stale |= pair.beside[at] | ({at} if pair.families[at].quadratic else set())
        objective.append(value)
        if not stale:
            return True
    return not stale


def _anchor(state: Descent) -> None:
    """Assign every family once, in the order in which the network has them, by blocks whose other groups are assigned."""
    known: frozenset[str] = frozenset()
    for at, family in enumerate(state.pair.families):
        state.visit(at, known)
        known |= frozenset(family.members)
