"""The best assignment of one family of neuron groups, all other groups held: heads, and inside each head its members."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from weightspace.analysis.matching.assignment import assign
from weightspace.analysis.matching.pair import UNSIGNED, Family, Kernels, Local, bare
from weightspace.spec import SymmetrySpec

MAX_ROUNDS = 20  # of alternating between children that stand in one block


@dataclass(frozen=True)
class Rules:
    """How members of each group may be sent: which groups have signs, and which may be mixed by orthogonal matrices.

    Attributes:
        signed: groups whose members may change sign.
        mixed: groups solved by Procrustes instead of an assignment.
        solver: name of the assignment solver, None for the default.
    """

    signed: frozenset[str]
    mixed: frozenset[str] = frozenset()
    solver: str | None = None

    @classmethod
    def of(cls, spec: SymmetrySpec, *, matrices: bool, solver: str | None = None) -> "Rules":
        """What a spec allows."""
        mixed = frozenset(g.name for g in spec.groups.values() if g.symmetry in ("orthogonal", "linear"))
        parents = {g.per for g in spec.groups.values()}  # the sign of a whole head would be one for all members inside: not looked for
        signed = frozenset(g.name for g in spec.groups.values() if g.symmetry == "sign" and g.name not in parents)
        return cls(signed, mixed if matrices else frozenset(), solver)


def solve_one(group: str, gains: Tensor, rules: Rules, unsigned: Tensor | None = None) -> tuple[Local, float]:
    """Assign members of b to members of a so that the gains add up to the most.

    Args:
        group: whose members they are.
        gains: what a's member i gains from b's member j, shape (n, n).
        rules: how they may be sent.
        unsigned: what is gained besides, whatever the sign.

    Returns:
        The action on b and what it gains.
    """
    if group in rules.mixed:
        # Orthogonal Procrustes (Schönemann 1966): the polar factor of the gains maximises the trace.
        left, singular, right = torch.linalg.svd(gains.double())
        return Local(torch.arange(len(gains)), matrix=(left @ right).cpu()), float(singular.sum())
    total = gains.abs() if group in rules.signed else gains
    total = total if unsigned is None else total + unsigned.to(total)
    index = assign(total, solver=rules.solver)

    def taken(values: Tensor) -> Tensor:
        return values.gather(1, index.to(values.device)[:, None])[:, 0].double()

    signs = torch.where(taken(gains) < 0, -1.0, 1.0).double().cpu() if group in rules.signed else None
    return Local(index, signs), float(taken(total).sum())


def solve_family(family: Family, kernels: Kernels, rules: Rules) -> tuple[dict[str, Local], float]:
    """Assign a family's groups together.

    A parent's members are compared by what they gain when the children inside are assigned as well as can be: exactly where
    no two children stand in one block, by alternating between them elsewhere.

    Returns:
        An action for each member, and the gain of all.
    """
    return _solve(family, family.root, kernels, rules)


def _solve(family: Family, group: str, kernels: Kernels, rules: Rules) -> tuple[dict[str, Local], float]:
    own, still = kernels.get((group,)), kernels.get((group + UNSIGNED,))
    children = family.children[group]
    if not children:
        either = own if own is not None else still
        if either is None:
            raise ValueError(f"no block holds group '{group}'")
        action, gain = solve_one(group, torch.zeros_like(either) if own is None else own, rules, still)
        return {group: action}, gain
    inner = {names: k for names, k in kernels.items() if len(names) > 1}
    count = next(iter(kernels.values())).shape[0]
    gains = torch.zeros(count, count, dtype=torch.float64)
    for direct in (own, still):
        gains = gains if direct is None else gains + direct.double().cpu()
    answers: dict[tuple[int, int], dict[str, Local]] = {}
    for i in range(count):
        for j in range(count):
            sliced = {names[1:]: k[i].select(len(names) - 1, j) for names, k in inner.items()}
            answers[i, j], gain = _solve_children(family, children, sliced, rules)
            gains[i, j] += gain
    action, gain = solve_one(group, gains, rules)
    chosen = [answers[i, int(j)] for i, j in enumerate(action.index)]
    return {group: action, **_stacked(chosen)}, gain


def _solve_children(family: Family, children: tuple[str, ...], kernels: Kernels, rules: Rules) -> tuple[dict[str, Local], float]:
    """Assign the children inside one pair of parents: each by itself, those that stand in one block in turn."""
    made: dict[str, Local] = {}
    total = 0.0
    for together in _coupled(family, children, kernels):
        if len(together) == 1:
            mine = {names: k for names, k in kernels.items() if bare(names[0]) == together[0]}
            actions, gain = _solve(family, together[0], mine, rules)
        else:
            actions, gain = _alternate(family, together, kernels, rules)
        made |= actions
        total += gain
    return made, total


def _coupled(family: Family, children: tuple[str, ...], kernels: Kernels) -> list[tuple[str, ...]]:
    """Split children into sets that share no block."""
    sets: list[set[str]] = [{child} for child in children if any(child in map(bare, names) for names in kernels)]
    for names in kernels:
        joined = [s for s in sets if s & set(map(bare, names))]
        if len(joined) > 1:
            sets = [s for s in sets if s not in joined] + [set.union(*joined)]
    return [tuple(child for child in children if child in s) for s in sets]


def _alternate(family: Family, children: tuple[str, ...], kernels: Kernels, rules: Rules) -> tuple[dict[str, Local], float]:
    """Assign children that stand in one block in turn until nothing rises."""
    actions = _opening(family, children, kernels, rules)
    best = -float("inf")
    for _ in range(MAX_ROUNDS):
        before = best
        for child in children:
            mine = _below(family, child)
            seen = {
                names: k
                for names, k in kernels.items()
                if set(map(bare, names)) & mine and all(bare(n) in mine or _plain(bare(n), actions) for n in names)
            }
            reduced: Kernels = {}
            for names, k in seen.items():
                kept, values = contract(names, k, mine, actions)
                reduced[kept] = reduced[kept] + values if kept in reduced else values
            if not reduced:
                continue
            found, _ = _solve(family, child, reduced, rules)
            trial = {**actions, **found}
            gain = _gain(kernels, trial)
            if gain > best or not set(found) <= set(actions):
                actions, best = trial, gain
        if len(actions) == sum(len(_below(family, c)) for c in children) and best <= before + 1e-12 * abs(before):
            break
    return actions, _gain(kernels, actions)


def _opening(family: Family, children: tuple[str, ...], kernels: Kernels, rules: Rules) -> dict[str, Local]:
    """What to begin with: nothing, or, where no child is seen alone, one of two by the most that the second could gain."""
    if any(set(map(bare, names)) <= _below(family, child) for child in children for names in kernels):
        return {}
    for names, values in kernels.items():
        if len(names) == 2:
            count = len(values)
            most = [[solve_one(bare(names[1]), values[i, :, j], rules)[1] for j in range(count)] for i in range(count)]
            return {bare(names[0]): solve_one(bare(names[0]), torch.tensor(most, dtype=torch.float64), rules)[0]}
    sizes = {bare(name): k.shape[at] for names, k in kernels.items() for at, name in enumerate(names)}
    return {child: Local(torch.arange(sizes[child])) for child in children[:-1]}


def _below(family: Family, group: str) -> set[str]:
    found = {group}
    for child in family.children[group]:
        found |= _below(family, child)
    return found


def contract(names: tuple[str, ...], values: Tensor, keep: set[str], actions: Mapping[str, Local]) -> tuple[tuple[str, ...], Tensor]:
    """Sum a kernel over groups whose action is known, along the pairs that it makes; a sign or a matrix weighs them."""
    kept = list(names)
    for name in names:
        if bare(name) in keep:
            continue
        at = kept.index(name)
        matrix = actions[bare(name)].as_matrix.to(values)
        matrix = matrix if bare(name) == name else matrix.abs()
        values = torch.einsum("ij...,ij->...", values.movedim((at, len(kept) + at), (0, 1)), matrix)
        kept.pop(at)
    return tuple(kept), values


def _plain(name: str, actions: Mapping[str, Local]) -> bool:
    """Whether a group's action is known and the same for all other members (deeper ones are left to the next visit)."""
    return name in actions and actions[name].index.dim() == 1


def _gain(kernels: Kernels, actions: Mapping[str, Local]) -> float:
    """What actions on children without parents of their own gain in all kernels whose groups are known."""
    total = 0.0
    for names, values in kernels.items():
        if all(_plain(bare(n), actions) for n in names):
            total += float(contract(names, values, set(), actions)[1])
    return total


def _stacked(found: list[dict[str, Local]]) -> dict[str, Local]:
    """Actions inside each member of a parent, put together along a new first dimension."""
    made: dict[str, Local] = {}
    for name in found[0]:
        parts = [actions[name] for actions in found]
        diagonals = [p.diagonal for p in parts if p.diagonal is not None]
        matrices = [p.matrix for p in parts if p.matrix is not None]
        made[name] = Local(
            torch.stack([p.index for p in parts]),
            torch.stack(diagonals) if diagonals else None,
            torch.stack(matrices) if matrices else None,
        )
    return made
