"""Weight matching: align two sets of weights by assigning one family of neuron groups after another.

Ainsworth, Hayase & Srinivasa, Git Re-Basin (arXiv:2209.04836), Algorithm 1: maximise the sum over tensors of the inner product
of a with the moved b. Four departures: a family is visited only when one beside it has moved; its gains are kept and changed by
what moved; the first round starts at groups that are anchored to fixed axes and counts only what is known; and a move is taken
only if the objective rises, also where one group stands on both axes of a tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from weightspace.analysis.matching.family import Rules, solve_family
from weightspace.analysis.matching.pair import Family, Kernels, Local, Pair, PairBlock, kernel
from weightspace.analysis.matching.quadratic import improve

TOLERANCE = 1e-6  # of the objective's size: float32 sums are not known better
FEW = 0.4  # of a group's members moved: below this share their rows alone are computed


@dataclass
class Descent:
    """A running alignment: the actions so far, and each family's gains as of its last visit.

    Attributes:
        pair: the two sets of weights.
        rules: how members may be sent.
        actions: what is done to each group of b.
        kernels: gains of each family.
        seen: for each family and block, the actions of the other groups that its gains were computed with.
        assignments: how many families were solved.
    """

    pair: Pair
    rules: Rules
    actions: dict[str, Local]
    kernels: list[Kernels] = field(default_factory=list)
    seen: list[dict[int, dict[str, Local]]] = field(default_factory=list)
    assignments: int = 0

    def __post_init__(self) -> None:
        self.kernels = [{} for _ in self.pair.families]
        self.seen = [{} for _ in self.pair.families]

    def update(self, at: int, known: frozenset[str] | None = None) -> Kernels:
        """Bring a family's gains up to date with the actions of all others.

        Args:
            at: which family.
            known: count only blocks whose other groups are all among these.
        """
        family, kernels = self.pair.families[at], self.kernels[at]
        members = frozenset(family.members)
        for k in family.blocks:
            block = self.pair.blocks[k]
            others = {g for g in block.groups if g is not None and g not in members}
            if (known is not None and not others <= known) or k in family.quadratic:
                continue
            now = {g: self.actions[g] for g in others if g in self.actions}
            for names, change in _changes(block, family, self.seen[at].get(k), now):
                kernels[names] = kernels[names] + change if names in kernels else change
            self.seen[at][k] = now
        return kernels

    def visit(self, at: int, known: frozenset[str] | None = None) -> float:
        """Assign one family anew; what it gains, 0 where it stays as it was."""
        family = self.pair.families[at]
        kernels = dict(self.update(at, known))
        if known is None:
            for k in family.quadratic:
                for names, gains in _linearised(self.pair.blocks[k], family, self.actions):
                    kernels[names] = kernels[names] + gains if names in kernels else gains
        if not kernels:
            return 0.0
        self.assignments += 1
        found, gain = solve_family(family, kernels, self.rules)
        if known is not None:
            self.actions |= found
            return gain
        before = {name: self.actions[name] for name in family.members if name in self.actions}
        if family.quadratic:
            found, rise = improve(self, at, found)
        else:
            rise = gain - gained(family, kernels, self.actions)
        size = max(abs(gain), 1e-30)
        if rise <= TOLERANCE * size or _same(found, before):
            return 0.0
        self.actions |= found
        return rise


def gained(family: Family, kernels: Kernels, actions: Mapping[str, Local]) -> float:
    """What a family's actions gain by given kernels."""
    parent = {child: name for name, children in family.children.items() for child in children}
    total = 0.0
    for names, values in kernels.items():
        first = actions[names[0]]
        if len(names) == 1 and first.matrix is None:
            taken = values.gather(1, first.index.to(values.device)[:, None])[:, 0].double()
            total += float(taken.sum() if first.diagonal is None else taken @ first.diagonal.to(taken))
            continue
        # Members of a get even numbers and members of b odd ones; a child's matrix is counted by its parents' members of a.
        number = {name: 2 * k for k, name in enumerate(names)}
        operands: list[Tensor | list[int]] = [values.double().cpu(), [*number.values(), *(k + 1 for k in number.values())]]
        for name in names:
            chain, above = [number[name], number[name] + 1], parent.get(name)
            while above is not None:
                chain.insert(0, number[above])
                above = parent.get(above)
            operands += [actions[name].as_matrix.double(), chain]
        total += float(torch.einsum(*operands, []))
    return total


def _changes(
    block: PairBlock, family: Family, before: Mapping[str, Local] | None, now: Mapping[str, Local]
) -> list[tuple[tuple[str, ...], Tensor]]:
    """How a block's inner products change when the other groups' actions go from `before` to `now`."""
    at = tuple(
        sorted(
            (j for j, g in enumerate(block.groups) if g in family.members), key=lambda j: family.members.index(cast(str, block.groups[j]))
        )
    )
    names = tuple(cast(str, block.groups[j]) for j in at)
    skip = frozenset(family.members)
    if before is None:
        return [(names, kernel(block, at, block.a, block.moved(block.b, now, skip)))]
    moved = [g for g in now if now[g] is not before.get(g)]
    if not moved:
        return []
    if len(moved) == 1 and block.groups.count(moved[0]) == 1 and moved[0] in before:
        j = block.groups.index(moved[0])
        new, old = now[moved[0]], before[moved[0]]
        if not block.parents[j] and new.matrix is None and old.matrix is None and not _parent_of_any(block, j):
            return _few_changes(block, at, names, j, old, new, now, skip | {moved[0]})
    full = block.moved(block.b, now, skip) - block.moved(block.b, before, skip)
    return [(names, kernel(block, at, block.a, full))]


def _few_changes(
    block: PairBlock,
    at: tuple[int, ...],
    names: tuple[str, ...],
    j: int,
    old: Local,
    new: Local,
    now: Mapping[str, Local],
    skip: frozenset[str],
) -> list[tuple[tuple[str, ...], Tensor]]:
    """The change when one other group moved: from the rows of its members that moved alone, where these are few."""
    differs = old.index != new.index
    if old.diagonal is not None and new.diagonal is not None:
        differs = differs | (old.diagonal != new.diagonal)
    rows = differs.nonzero()[:, 0]
    if not len(rows):
        return []
    all_rows = len(rows) > FEW * len(differs)
    rows = torch.arange(len(differs)) if all_rows else rows
    device = block.b.device

    def taken(action: Local) -> Tensor:
        values = block.b.index_select(j, action.index[rows].to(device))
        if action.diagonal is not None and block.powers[j]:
            shape = [1] * values.dim()
            shape[j] = len(rows)
            values = values * action.diagonal[rows].to(values).reshape(shape)
        return values

    change = block.moved(taken(new).sub_(taken(old)), now, skip)
    left = block.a if all_rows else block.a.index_select(j, rows.to(device))
    return [(names, kernel(block, at, left, change))]


def _parent_of_any(block: PairBlock, j: int) -> bool:
    return any(j in parents for parents in block.parents)


def _linearised(block: PairBlock, family: Family, actions: Mapping[str, Local]) -> list[tuple[tuple[str, ...], Tensor]]:
    """The gradient of a block in which one group stands twice: each place in turn, the other as it is now."""
    made: list[tuple[tuple[str, ...], Tensor]] = []
    for j, group in enumerate(block.groups):
        if group in family.members and not block.parents[j]:
            made.append(((group,), kernel(block, (j,), block.a, block.moved(block.b, actions, (j,)))))
    return made


def _same(found: Mapping[str, Local], before: Mapping[str, Local]) -> bool:
    """Whether nothing moves: the same indices, the same signs, no matrix."""

    def equal(x: Local, y: Local) -> bool:
        if x.matrix is not None or y.matrix is not None or not torch.equal(x.index, y.index):
            return False
        return (x.diagonal is None and y.diagonal is None) or (
            x.diagonal is not None and y.diagonal is not None and torch.equal(x.diagonal, y.diagonal)
        )

    return all(name in before and equal(action, before[name]) for name, action in found.items())


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


def descend(pair: Pair, rules: Rules, start: Mapping[str, Local], *, anchored: bool, max_sweeps: int, generator: torch.Generator) -> Run:
    """Run one descent to its end.

    Args:
        pair: the two sets of weights.
        rules: how members may be sent.
        start: actions to start from, one for each group.
        anchored: whether a first round builds the start from what is anchored to fixed axes, if that is the better start.
        max_sweeps: after which to stop.
        generator: of the order of visits.
    """
    state, value = Descent(pair, rules, dict(start)), pair.value(start)
    if anchored:
        other = Descent(pair, rules, dict(start))
        _anchor(other)
        reached = pair.value(other.actions)
        if reached > value:
            state, value = other, reached
    objective = [value]
    stale, stopped = set(range(len(pair.families))), f"stopped after {max_sweeps} sweeps"
    while stale and len(objective) <= max_sweeps:
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
        stopped = "no family could gain"
    return Run(state.actions, tuple(objective), stopped, state.assignments, _ties(state))


def _ties(state: Descent) -> dict[str, int]:
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


def _anchor(state: Descent) -> None:
    """Assign every family once, the one with most of its weight in known blocks first, by those blocks alone."""
    pair = state.pair
    known: frozenset[str] = frozenset()
    left = set(range(len(pair.families)))
    mass = {k: float(torch.linalg.vector_norm(block.b)) ** 2 for k, block in enumerate(pair.blocks)}

    def share(at: int) -> float:
        family = pair.families[at]
        inside = known | frozenset(family.members)
        seen = sum(mass[k] for k in family.blocks if k not in family.quadratic and {g for g in pair.blocks[k].groups if g} <= inside)
        return seen / (sum(mass[k] for k in family.blocks) or 1.0)

    while left:
        best = max(sorted(left), key=share)
        left.discard(best)
        state.visit(best, known)
        known |= frozenset(pair.families[best].members)
