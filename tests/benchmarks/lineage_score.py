"""How well predicted edges agree with a known history, in all and for each kind of edit.

What computes the same, and casts of it, are one and the same parent: a permuted copy is as far from a model as from its renamed copy.
So an edge is judged by the classes that its ends are in, and a copy is found when edges within its class lead to what it was made from.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from tests.benchmarks.lineage_families import Edge, Truth


@dataclass(frozen=True)
class Predicted:
    """An edge that a method says there is; `weight` of a parent in a merge where the method estimates it."""

    parent: str
    child: str
    is_directed: bool = True
    weight: float | None = None


@dataclass(frozen=True)
class Score:
    """Shares for the models of one kind of edit, or for all; None where there is nothing to judge.

    Attributes:
        models: how many.
        family: mean F1 over models of the family that each is put in (B-cubed: Bagga and Baldwin 1998), members of two families left out.
        precision: share of the edges that lead to such models that are right, undirected.
        recall: share of the true edges that were found, undirected.
        direction: share of the found edges with a known direction that are directed so.
        weight_error: mean absolute error of the weights of merges.
    """

    models: int
    family: float | None
    precision: float | None
    recall: float | None
    direction: float | None
    weight_error: float | None


@dataclass(frozen=True)
class Judged:
    """Scores by kind, those of all, and what was joined that should not be.

    Attributes:
        kinds: by kind of edit, `root` for what came from nothing here.
        total: of all models.
        rand: adjusted Rand index of the families (Hubert and Arabie 1985).
        strangers: pairs of families that start from one seed.
        joined: those of them that the prediction joins.
    """

    kinds: Mapping[str, Score]
    total: Score
    rand: float
    strangers: int
    joined: int


def judge(truth: Truth, predicted: Sequence[Predicted]) -> Judged:
    """Compare predicted edges with the truth."""
    whole = [name for name, member in truth.members.items() if len(member.families) == 1]
    kept = set(whole)
    true = {name: truth.members[name].families[0] for name in whole}
    found = components(whole, ((edge.parent, edge.child) for edge in predicted if {edge.parent, edge.child} <= kept))
    family = _cubed(true, found)
    is_right = _right(truth, predicted)
    matches = _matches(truth, predicted)

    def score(of: Callable[[str], bool]) -> Score:
        names = [name for name in truth.members if of(truth.members[name].kind)]
        chosen = set(names)
        edges = [edge for edge in truth.edges if edge.child in chosen and edge.is_required]
        here = [right for edge, right in zip(predicted, is_right, strict=True) if edge.child in chosen]
        turned = [matches[edge].direction for edge in edges if edge.is_directed and matches[edge].direction is not None]
        errors = [matches[edge].error for edge in edges if matches[edge].error is not None]
        return Score(
            len(names), _mean(family[name] for name in names if name in family), _mean(here),
            _mean(matches[edge].is_found for edge in edges), _mean(turned), _mean(errors),
        )  # fmt: skip

    kinds = sorted({member.kind for member in truth.members.values()}, key=lambda kind: (kind != "root", " + " in kind, kind))
    by_kind = {kind: score(lambda other, kind=kind: other == kind) for kind in kinds}  # type: ignore[misc]
    return Judged(by_kind, score(lambda _: True), _rand(true, found), *_strangers(truth, true, found))


def components(names: Iterable[str], edges: Iterable[tuple[str, str]]) -> dict[str, str]:
    """For each name, one that stands for all that edges connect it with."""
    leader = {name: name for name in names}

    def top(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for a, b in edges:
        leader[top(a)] = top(b)
    return {name: top(name) for name in leader}


@dataclass(frozen=True)
class _Match:
    """What a prediction says of one true edge."""

    is_found: bool
    direction: bool | None = None
    error: float | None = None


def _right(truth: Truth, predicted: Sequence[Predicted]) -> list[bool]:
    near = {name: member.near for name, member in truth.members.items()}
    pairs = {frozenset((near[edge.parent], near[edge.child])) for edge in truth.edges}
    return [near[edge.parent] == near[edge.child] or frozenset((near[edge.parent], near[edge.child])) in pairs for edge in predicted]


def _matches(truth: Truth, predicted: Sequence[Predicted]) -> dict[Edge, _Match]:
    """Look every true edge up: between classes by any edge between them, within a class by a way inside it."""
    near = {name: member.near for name, member in truth.members.items()}
    orbit = {name: member.orbit for name, member in truth.members.items()}
    inside = components(truth.members, ((edge.parent, edge.child) for edge in predicted if near[edge.parent] == near[edge.child]))
    between: dict[tuple[int, int], Predicted] = {}
    within: dict[tuple[int, int], Predicted] = {}
    for edge in predicted:
        between.setdefault((near[edge.parent], near[edge.child]), edge)
        within.setdefault((orbit[edge.parent], orbit[edge.child]), edge)
    directs = any(edge.is_directed for edge in predicted)  # a method that says nothing of directions is not judged by them
    made: dict[Edge, _Match] = {}
    for true in truth.edges:
        is_cast = near[true.parent] == near[true.child]
        number, table = (orbit, within) if is_cast else (near, between)
        ends = number[true.parent], number[true.child]
        forth, back = table.get(ends), table.get((ends[1], ends[0]))
        is_found = inside[true.parent] == inside[true.child] if is_cast else (forth or back) is not None
        direction = forth is not None and forth.is_directed if directs and (forth or back) else None
        estimated = forth.weight if forth is not None and true.weight is not None else None
        error = abs(estimated - true.weight) if estimated is not None and true.weight is not None else None
        made[true] = _Match(is_found, direction, error)
    return made


def _cubed(true: Mapping[str, int], found: Mapping[str, str]) -> dict[str, float]:
    """F1 of the predicted family of each model."""
    right, wide, made = _groups(true), _groups(found), {}
    for name in true:
        mine, theirs = right[true[name]], wide[found[name]]
        both = len(mine & theirs)
        made[name] = 2 * both / (len(mine) + len(theirs))
    return made


def _groups(labels: Mapping[str, int] | Mapping[str, str]) -> dict[int | str, set[str]]:
    made: dict[int | str, set[str]] = {}
    for name, label in labels.items():
        made.setdefault(label, set()).add(name)
    return made


def _rand(true: Mapping[str, int], found: Mapping[str, str]) -> float:
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score([true[name] for name in true], [found[name] for name in true]))


def _strangers(truth: Truth, true: Mapping[str, int], found: Mapping[str, str]) -> tuple[int, int]:
    """Pairs of families from one seed, and how many of them share a predicted family."""
    seeds = {true[name]: truth.members[name].seed for name in true}
    reached: dict[int, set[str]] = {}
    for name, family in true.items():
        reached.setdefault(family, set()).add(found[name])
    pairs = [(a, b) for a in seeds for b in seeds if a < b and seeds[a] == seeds[b]]
    return len(pairs), sum(bool(reached[a] & reached[b]) for a, b in pairs)


def _mean(values: Iterable[float | bool | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return fmean(known) if known else None
