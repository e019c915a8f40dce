"""Method `activation`: members that respond alike to data are assigned to each other."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from weightspace.analysis.matching.channels import Channels, channels_of
from weightspace.analysis.matching.family import Rules, contract, solve_family
from weightspace.analysis.matching.match import Match, matching_method, result
from weightspace.analysis.matching.midpoint import on_device
from weightspace.analysis.matching.pair import Family, Kernels, Local, Pair
from weightspace.analysis.matching.products import Gathering, Products
from weightspace.analysis.matching.weight import Descent, Run, gained, ties
from weightspace.axes import Fixed, Leaf, blocks, size
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
    task: Task,
    of: Literal["output", "input"] = "output",
    similarity: Literal["correlation", "inner"] = "correlation",
    solver: str | None = None,
) -> Match:
    """Assign members to each other by the similarity of their activations over a task's batches.

    Li et al., Convergent learning (arXiv:1511.07543), by correlation; Ainsworth et al., Git Re-Basin (arXiv:2209.04836), section 3.1, by
    inner products. Both networks see each batch once; what is kept are sums in float64, one matrix for each group (or for groups that
    stand on one axis, as heads and their members). A group that shows in several submodules, as a residual stream does, adds up their
    products, each around its own mean; the correlation is that of all of them. A member that never varies gains nothing anywhere.
    A family that no submodule shows is matched by weights, the others held; `stopped` says so.

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
        TaskError: the task has no batches, or the networks do not fit its module.
        SymmetryError: activations that are not finite.
    """
    for kind, given, known in (("similarity", similarity, SIMILARITIES), ("place of activations", of, PLACES)):
        if given not in known:
            raise UnknownNameError.of(kind, given, known)
    left, right = on_device(a, task), on_device(b, task)
    pair, rules = Pair.of(left, right, spec, device=task.device), Rules.of(spec, matrices=False, solver=solver)
    kernels = _kernels(left, right, pair, task, of, centred=similarity == "correlation")
    run = _assigned(pair, rules, kernels)
    return result(a, b, Symmetry(spec, run.actions), method="activation", ties=run.ties, runs=[run])


def _kernels(a: StateDict, b: StateDict, pair: Pair, task: Task, of: Literal["output", "input"], *, centred: bool) -> Kernels:
    """Similarities of the members of groups that stand together on an axis of channels."""
    shown = channels_of(task.module, pair.spec, a, of_input=of == "input")
    order = [name for family in pair.families for name in family.members]
    products: dict[tuple[str, ...], Products] = {}
    gatherings: dict[tuple[str, int], Gathering] = {}
    for values in _streamed(a, b, task, shown, of):
        for name, (x, y) in values.items():
            for k, (names, left, right) in enumerate(_cut(pair.spec, shown[name], x, y, order)):
                total = products.setdefault(names, Products(tuple(pair.spec.sizes[g] for g in names)))
                gatherings.setdefault((name, k), Gathering(total, centred=centred)).add(left, right)
    for names, total in products.items():
        if not bool(torch.isfinite(total.cross).all()):
            raise SymmetryError(f"activations of neuron group '{names[-1]}' are not finite; matching needs finite weights and data")
    return {names: total.similarity(normalised=centred) for names, total in products.items()}


def _streamed(
    a: StateDict, b: StateDict, task: Task, shown: Mapping[str, Channels], of: Literal["output", "input"]
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """For each batch what both networks show in each submodule that is called, as (samples, channels)."""
    now: list[Batch] = []
    one = replace(task, batches=now)  # both networks see the same batch, also where a loader shuffles at every iteration
    empty = True
    for batch in task.batches:
        empty = False
        now[:] = [batch]
        left, right = _seen(a, one, shown, of), _seen(b, one, shown, of)
        yield {name: (left[name], right[name]) for name in left if name in right}
    if empty:
        raise TaskError("the task has no batches, and needs at least one to match on; give it data")


def _seen(state_dict: StateDict, task: Task, shown: Mapping[str, Channels], of: Literal["output", "input"]) -> dict[str, Tensor]:
    seen: dict[str, list[Tensor]] = {}

    def watch(name: str, given: Tensor, made: Tensor) -> None:
        seen.setdefault(name, []).append(shown[name].last(given if of == "input" else made))

    for _ in task.run(state_dict, {name: partial(watch, name) for name in shown}):
        pass
    return {name: torch.cat(parts) for name, parts in seen.items()}


def _cut(
    spec: SymmetrySpec, channels: Channels, x: Tensor, y: Tensor, order: list[str]
) -> Iterator[tuple[tuple[str, ...], Tensor, Tensor]]:
    """Parts of activations with the groups that index them, as (samples, cells, members): cells are what is fixed."""
    axes = (Fixed(len(x)), channels.axis)
    if x.shape[1] != size(channels.axis, spec.sizes):
        return  # a module of the user's own, whose channels stand elsewhere
    for left, right in zip(blocks(x, axes, spec.sizes), blocks(y, axes, spec.sizes), strict=True):
        at = {term.group: j for j, term in enumerate(left.terms) if isinstance(term, Leaf) and term.group in order}
        names = tuple(name for name in order if name in at)
        alone = any(parent.name not in at for name in names for parent in spec.parents(name))
        if not names or alone or sum(isinstance(t, Leaf) and t.group in at for t in left.terms) > len(at):
            continue
        places = [at[name] for name in names]
        last = tuple(range(-len(places), 0))
        count = math.prod(spec.sizes[name] for name in names)
        yield (names, *(part.view.movedim(places, last).reshape(len(x), -1, count).double() for part in (left, right)))


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
    tied = {name: ties(kernels[name,], actions[name].index, signed=name in rules.signed) for name in actions if (name,) in kernels}
    stopped = f"stopped after {ROUNDS} rounds" if rose else "no family could gain"
    hidden = [at for at, family in enumerate(pair.families) if not _seen_by(family, kernels, actions)]
    if hidden:
        state = Descent(pair, rules, actions)
        while any([state.visit(at) > 0 for at in hidden]):
            pass
        actions, assignments = state.actions, assignments + state.assignments
        stopped += f"; by weights, since no submodule shows them: {', '.join(pair.families[at].root for at in hidden)}"
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
