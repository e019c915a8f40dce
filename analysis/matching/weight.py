"""Weight matching: align two sets of weights by assigning one family of neuron groups after another.

Ainsworth, Hayase & Srinivasa, Git Re-Basin (arXiv:2209.04836), Algorithm 1: maximise the sum over tensors of the inner product
of a with the moved b. A family's gains are kept and changed by what moved, and a move is taken only if the objective rises,
also where one group stands on both axes of a tensor. The order of visits is in `weightspace.analysis.matching.search`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from weightspace.analysis.matching.family import Rules, solve_family
from weightspace.analysis.matching.pair import Family, Kernels, Local, Pair, PairBlock, bare, kernel
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

    def forget(self, at: int) -> None:
        """Assign every family beside one anew as if that one's order were unknown: the blocks that hold it do not count."""
        unknown = frozenset(self.pair.families[at].blocks)
        for other in sorted(self.pair.beside[at]):
            family = self.pair.families[other]
            kernels = dict(self.update(other))
            for k in unknown & set(family.blocks) - family.quadratic:
                for names, gains in _changes(self.pair.blocks[k], family, None, self.seen[other][k]):
                    kernels[names] = kernels[names] - gains
            self.assignments += 1
            self.actions |= solve_family(family, kernels, self.rules)[0]

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
        first = actions[bare(names[0])]
        if len(names) == 1 and first.matrix is None:
            taken = values.gather(1, first.index.to(values.device)[:, None])[:, 0].double()
            total += float(taken.sum() if first.diagonal is None or bare(names[0]) != names[0] else taken @ first.diagonal.to(taken))
            continue
        # Members of a get even numbers and members of b odd ones; a child's matrix is counted by its parents' members of a.
        number = {bare(name): 2 * k for k, name in enumerate(names)}
        operands: list[Tensor | list[int]] = [values.double().cpu(), [*number.values(), *(k + 1 for k in number.values())]]
        for name in names:
            group = bare(name)
            chain, above = [number[group], number[group] + 1], parent.get(group)
            while above is not None:
                chain.insert(0, number[above])
                above = parent.get(above)
            matrix = actions[group].as_matrix.double()
            operands += [matrix if group == name else matrix.abs(), chain]
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
    names = tuple(cast(str, block.keys[j]) for j in at)
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
            made.append(((cast(str, block.keys[j]),), kernel(block, (j,), block.a, block.moved(block.b, actions, (j,)))))
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
