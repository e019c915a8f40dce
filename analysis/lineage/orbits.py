"""Relatives across orbits: which models are permuted or rescaled copies of which, and which were before they were trained on."""

from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightspace.analysis.lineage.edge import Reason
from weightspace.analysis.lineage.entry import Entry
from weightspace.analysis.lineage.evidence import Finding
from weightspace.analysis.lineage.groups import Group
from weightspace.analysis.lineage.orbit import Balanced, apart, balanced, equal_values, matched, spec_of, step_between
from weightspace.analysis.lineage.probability import CERTAIN, matched_probability
from weightspace.analysis.lineage.sketch import Sketch
from weightspace.analysis.lineage.tree import Relation
from weightspace.symmetry import act

LINKS = 8  # pairs of models of two families that are told of, once the families are in one order
SAME = 1e-4  # distance of profiles of what is the same up to rounding
TRIED, FARTHEST = 4, 0.3  # how many of the nearest models of others are matched with each family, and how far their profiles may be
IN_ORDER = 0.6  # relative distance under which two models have their units in the same order
LARGEST = 20_000_000  # parameters up to which models are matched

Array = np.ndarray[Any, np.dtype[Any]]


def orbits(
    entries: Sequence[Entry],
    sketches: Sequence[Sketch],
    groups: Sequence[Group],
    compared: Sequence[Relation],
    known: Sequence[Relation],
    generator: torch.Generator | None,
) -> list[Relation]:
    """Find copies in another order or scale among models that nothing else connects.

    Models are blocked by what no permutation changes (the magnitudes of every tensor, after all units were brought into balance);
    only the nearest of other families are matched.

    Args:
        entries: the models.
        sketches: theirs.
        groups: models of one architecture.
        compared: relations of models as they are; families that are near in one order and yet refused are no permuted relatives.
        known: those that hold.
        generator: source of chance of the matching.
    """
    found = list(_permuted(sketches, known))
    family = _families(len(entries), [*known, *found])
    refused = {frozenset((family[one.first], family[one.second])) for one in compared if _relative(one) < IN_ORDER}
    for group in groups:
        members = [one for one in group.members if entries[one].checkpoint.num_params <= LARGEST]
        if len({family[one] for one in members}) > 1:
            found += _rescaled(entries, members, family, refused, generator)
    return found


def _permuted(sketches: Sequence[Sketch], known: Sequence[Relation]) -> Iterator[Relation]:
    """Link models of equal magnitudes to that one of them which has most relatives."""
    degree = [0] * len(sketches)
    near: set[tuple[int, int]] = set()
    for one in known:
        degree[one.first], degree[one.second] = degree[one.first] + 1, degree[one.second] + 1
        near |= {(one.first, one.second), (one.second, one.first)}
    for members in equal_values(sketches):
        hub = max(members, key=lambda one: (degree[one], -one))
        for other in members:
            if other != hub and (hub, other) not in near:
                text = "every tensor has the same magnitudes in another order"
                finding = Finding("permuted", CERTAIN, 0.5, Reason("magnitudes", text), is_directed=False, is_exact=True)
                yield Relation(hub, other, (finding,), 0.0)


def _rescaled(
    entries: Sequence[Entry],
    members: Sequence[int],
    family: Mapping[int, int],
    refused: Set[frozenset[int]],
    generator: torch.Generator | None,
) -> Iterator[Relation]:
    """Match each model with the nearest of other families, the nearest profiles first; what was linked is one family then."""
    spec = spec_of(entries[members[0]].checkpoint)
    if spec is None or not spec.movable:
        return
    made = {one: balanced(entries[one].checkpoint, spec) for one in members}
    kept = [one for one in members if made[one] is not None]
    profiles = np.stack([_of(made, one).profile for one in kept]) if kept else np.zeros((0, 0))
    groups = {one: family[one] for one in kept}
    for distance, i, j in _candidates(profiles, kept, family):
        if groups[i] == groups[j] or frozenset((family[i], family[j])) in refused:
            continue
        found = _between(i, j, made, {one: groups[one] for one in kept}, distance, generator)
        if any(one.finding.probability >= 0.5 for one in found):
            yield from found
            groups = {one: groups[i] if value == groups[j] else value for one, value in groups.items()}


def _relative(relation: Relation) -> float:
    """How far two models are as they are; 1 where that was not measured."""
    return next((one.reason.numbers["relative"] for one in relation.findings if "relative" in one.reason.numbers), 1.0)


def _candidates(profiles: Array, kept: Sequence[int], family: Mapping[int, int]) -> list[tuple[float, int, int]]:
    """For every family, the nearest models of others by profile; nearest first."""
    found: dict[int, list[tuple[float, int, int]]] = {}
    for row, i in enumerate(kept):
        distances = np.sqrt(((profiles[row + 1 :] - profiles[row]) ** 2).mean(1)) if row + 1 < len(kept) else np.zeros(0)
        for j, distance in zip(kept[row + 1 :], distances.tolist(), strict=True):
            if family[i] != family[j] and distance < FARTHEST:
                for one in (i, j):
                    found.setdefault(family[one], []).append((distance, i, j))
    return sorted({one for pairs in found.values() for one in sorted(pairs)[:TRIED]})


def _of(made: Mapping[int, Balanced | None], number: int) -> Balanced:
    found = made[number]
    assert found is not None
    return found


def _between(
    i: int, j: int, made: Mapping[int, Balanced | None], family: Mapping[int, int], distance: float, generator: torch.Generator | None
) -> list[Relation]:
    """Move the second model's family into the order of the first's, and compare all of the one with all of the other, the nearest first."""
    element = matched(_of(made, i), _of(made, j), generator)
    if element is None:
        return []
    ours = [one for one in family if family[one] == family[i]]
    theirs = {one: act(element, dict(_of(made, one).weights)) for one in family if family[one] == family[j]}
    steps = sorted((step_between(_of(made, one).weights, there), one, other) for one in ours for other, there in theirs.items())
    return [_matched(one, other, _of(made, one).weights, theirs[other], step, distance) for step, one, other in steps[:LINKS]]


def _matched(i: int, j: int, here: Mapping[str, Tensor], there: Mapping[str, Tensor], step: float, distance: float) -> Relation:
    """What is left between two models in one order."""
    left = apart(here, there)
    if left < SAME**2:
        text = f"permuted and rescaled onto each other, they are equal up to {left**0.5:.1e}"
        reason = Reason("matching", text, {"profile": distance, "left": left})
        return Relation(i, j, (Finding("rescaled", CERTAIN, 0.5, reason, is_directed=False, is_exact=True),), left)
    text = f"matched onto each other, {left:.3f} of the squared distance of strangers is left"
    reason = Reason("matching", text, {"profile": distance, "left": left})
    whole = sum(float(t.square().sum()) for one in (here, there) for t in one.values() if t.is_floating_point() and t.ndim > 1)
    return Relation(i, j, (Finding("finetune", matched_probability(left, distance), 0.5, reason),), left * whole, step=step)


def _families(count: int, relations: Sequence[Relation]) -> dict[int, int]:
    """A number for each model, the same for models that relations connect."""
    leader = list(range(count))

    def top(one: int) -> int:
        while leader[one] != one:
            one = leader[one]
        return one

    for relation in relations:
        leader[top(relation.second)] = top(relation.first)
    return {one: top(one) for one in range(count)}
