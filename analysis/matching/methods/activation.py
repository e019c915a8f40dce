"""Method `activation`: members that respond alike to data are assigned to each other."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from weightspace.analysis.matching.channels import Channels, channels_of
from weightspace.analysis.matching.family import Rules, contract, solve_family
from weightspace.analysis.matching.match import Match, matching_method, result
from weightspace.analysis.matching.midpoint import on_device
from weightspace.analysis.matching.pair import Family, Kernels, Local, Pair
from weightspace.analysis.matching.products import Gathering, Products
from weightspace.analysis.matching.search import Run
from weightspace.analysis.matching.ties import ties
from weightspace.analysis.matching.weight import Descent, gained
from weightspace.axes import Axis, Fixed, Leaf, blocks, size
from weightspace.checkpoint import Checkpoint
from weightspace.errors import SymmetryError, TaskError, UnknownNameError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict, Symmetry
from weightspace.task import Batch, Task

SIMILARITIES = ("correlation", "inner")
PLACES = ("output", "input")
ROUNDS = 20  # of families that stand on one axis
TOLERANCE = 1e-9  # of the objective: a smaller rise is rounding


@matching_method("activation")
def match_activations(
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    spec: SymmetrySpec,
    *,
    generator: torch.Generator,
    task: Task | None = None,
    of: str = "output",
    similarity: str = "correlation",
    solver: str | None = None,
) -> Match:
    """Assign members to each other by the similarity of their activations over a task's batches.

    Li et al., Convergent learning (arXiv:1511.07543), by correlation; Ainsworth et al., Git Re-Basin (arXiv:2209.04836), section 3.1, by
    inner products. Both networks see each batch once; what is kept are sums in float64, one matrix for each group (or for groups that
    stand on one axis, as heads and their members). A group that shows in several submodules, as a residual stream does, adds up their
    products, each around its own mean; the correlation is that of all of them. A member that never varies gains nothing anywhere.
    A group that shows only on the other side of its layers is taken there; a family that no submodule shows is matched by weights,
    the others held, and `stopped` says so.

    Args:
        a: what is aligned to.
        b: what is moved.
        spec: the symmetry of both.
        generator: not used: nothing is left to chance.
        task: whose batches the networks see; its loss plays no part.
        of: the `output` of the layers that produce a group, before the nonlinearity, or the `input` of those that consume it, after it.
        similarity: `correlation`, or `inner` products as they are.
        solver: of linear assignments.

    Raises:
        UnknownNameError: no such similarity or place.
        TaskError: there is no task, it has no batches, or the networks do not fit its module.
        SymmetryError: activations that are not finite.
    """
    for kind, given, known in (("similarity", similarity, SIMILARITIES), ("place of activations", of, PLACES)):
        if given not in known:
            raise UnknownNameError.of(kind, given, known)
    if task is None:
        raise TaskError("method 'activation' compares what members do on data, and there is no task; give one, or use method 'weight'")
    left, right = on_device(a, task), on_device(b, task)
    pair, rules = Pair.of(left, right, spec, device=task.device), Rules.of(spec, matrices=False, solver=solver)
    kernels = _kernels(left, right, pair, task, of, centred=similarity == "correlation")
    run = _assigned(pair, rules, kernels)
    return result(a, b, Symmetry(spec, run.actions), method="activation", ties=run.ties, runs=[run])


def _shown(a: StateDict, spec: SymmetrySpec, task: Task, of: str) -> list[tuple[Channels, frozenset[str]]]:
    """Where groups show, with those to look for: at the side asked for, and those that do not show there at the other."""
    inputs, outputs = (channels_of(task.module, spec, a, of_input=side) for side in (True, False))
    first, second = (inputs, outputs) if of == "input" else (outputs, inputs)
    everything = frozenset(spec.groups)
    hidden = everything.difference(*(place.groups for place in first))
    return [(place, everything) for place in first] + [(place, hidden) for place in second if place.groups & hidden]


def _kernels(a: StateDict, b: StateDict, pair: Pair, task: Task, of: str, *, centred: bool) -> Kernels:
    """Similarities of the members of groups that stand together on an axis of channels."""
    spec, shown = pair.spec, _shown(a, pair.spec, task, of)
    order = [name for family in pair.families for name in family.members]
    products: dict[tuple[str, ...], Products] = {}
    gatherings: dict[tuple[int, int], Gathering] = {}
    for k, x, y in _streamed(a, b, task, [place for place, _ in shown]):
        place, wanted = shown[k]
        for part, (names, left, right) in enumerate(_cut(spec, place.axis, x, y, order)):
            if wanted.isdisjoint(names):
                continue
            total = products.setdefault(names, Products(tuple(spec.sizes[name] for name in names)))
            gatherings.setdefault((k, part), Gathering(total, centred=centred)).add(left, right)
    for names, total in products.items():
        if not bool(torch.isfinite(total.cross).all()):
            raise SymmetryError(f"activations of neuron group '{names[-1]}' are not finite; matching needs finite weights and data")
    return {names: total.similarity(normalised=centred) for names, total in products.items()}


def _streamed(a: StateDict, b: StateDict, task: Task, places: list[Channels]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """What both networks show at each place, batch after batch, as (samples, channels)."""
    now: list[Batch] = []
    one = replace(task, batches=now)  # both networks see the same batch, also where a loader shuffles at every iteration
    empty = True
    for batch in task.batches:
        empty = False
        now[:] = [batch]
        left, right = _seen(a, one, places), _seen(b, one, places)
        for k in left:
            yield k, left[k], right[k]
    if empty:
        raise TaskError("the task has no batches, and needs at least one to match on; give it data")


def _seen(state_dict: StateDict, task: Task, places: list[Channels]) -> dict[int, Tensor]:
    """What one network shows at the places that are reached, by their number."""
    seen: dict[int, list[Tensor]] = {}

    def watch(name: str, given: Tensor, made: Tensor) -> None:
        for k, place in enumerate(places):
            if place.module == name:
                seen.setdefault(k, []).append(place.last(given, made))

    for _ in task.run(state_dict, {place.module: partial(watch, place.module) for place in places}):
        pass
    return {k: torch.cat(parts) for k, parts in seen.items()}


def _cut(spec: SymmetrySpec, axis: Axis, x: Tensor, y: Tensor, order: list[str]) -> Iterator[tuple[tuple[str, ...], Tensor, Tensor]]:
    """Parts of activations with the groups that index them, as (samples, cells, members): cells are what is fixed."""
    if x.shape[1] != size(axis, spec.sizes):
        return  # a module of the user's own, whose channels stand elsewhere
    axes = (Fixed(len(x)), axis)
    for left, right in zip(blocks(x, axes, spec.sizes), blocks(y, axes, spec.sizes), strict=True):
        groups = [term.group for term in left.terms if isinstance(term, Leaf) and term.group in order]
        names = tuple(name for name in order if name in groups)
        alone = any(parent.name not in names for name in names for parent in spec.parents(name))
        if not names or alone or len(groups) > len(names):
            continue
        places, last = [left.where(name)[0] for name in names], tuple(range(-len(names), 0))
        count = math.prod(spec.sizes[name] for name in names)
        flat = [part.view.movedim(places, last).reshape(len(x), -1, count).double() for part in (left, right)]
        yield names, flat[0], flat[1]


def _assigned(pair: Pair, rules: Rules, kernels: Kernels) -> Run:
    """Assign every family by its similarities, in turn where several stand on one axis; what shows nowhere by weights."""
    actions = {name: pair.spec.identity().action(name) for family in pair.families for name in family.members}
    everything = _joined(pair)
    objective, assignments, rose = [gained(everything, kernels, actions)], 0, True
    while rose and len(objective) <= ROUNDS:
        height, rose = objective[-1], False
        for family in pair.families:
            seen = _seen_by(family, kernels, actions)
            if not seen:
                continue
            assignments += 1
            trial = {**actions, **solve_family(family, seen, rules)[0]}
            reached = gained(everything, kernels, trial)
            if reached > height + TOLERANCE * abs(height):
                actions, height, rose = trial, reached, True
        objective.append(height)
    worth = {name: kernels[name,].abs() if name in rules.signed else kernels[name,] for name in actions if (name,) in kernels}
    tied = {name: ties(gains, actions[name].index) for name, gains in worth.items()}
    stopped = f"stopped after {ROUNDS} rounds" if rose else "no family could gain"
    seen_anywhere = {name for names in kernels for name in names}
    unseen = [at for at, family in enumerate(pair.families) if seen_anywhere.isdisjoint(family.members)]
    left = [name for at, family in enumerate(pair.families) if at not in unseen for name in family.members if name not in seen_anywhere]
    if unseen:
        state = Descent(pair, rules, actions)
        while any([state.visit(at) > 0 for at in unseen]):
            pass
        actions, assignments = state.actions, assignments + state.assignments
        stopped += f"; by weights, as no submodule shows them: {', '.join(pair.families[at].root for at in unseen)}"
    if left:
        stopped += f"; as they were, as no submodule shows them: {', '.join(left)}"
    return Run(actions, tuple(objective), stopped, assignments, {name: count for name, count in tied.items() if count})


def _joined(pair: Pair) -> Family:
    """All groups as one family, to add up gains over."""
    members = tuple(name for family in pair.families for name in family.members)
    return Family(members, {name: inside for family in pair.families for name, inside in family.children.items()}, ())


def _seen_by(family: Family, kernels: Kernels, actions: Mapping[str, Local]) -> Kernels:
    """What a family's groups gain, the groups of others that stand beside them sent where they are sent now."""
    mine, seen = set(family.members), Kernels()
    for names, values in kernels.items():
        if mine & set(names) and all(name in mine or actions[name].index.dim() == 1 for name in names):
            kept, gains = contract(names, values, mine, actions)
            seen[kept] = seen[kept] + gains if kept in seen else gains
    return seen
