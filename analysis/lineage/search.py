"""The search: which pairs of models are worth a look, and what is found of each; weights are read for those alone."""

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from weightspace.analysis.lineage.comparison import Comparison, Reader, comparison
from weightspace.analysis.lineage.edge import Reason
from weightspace.analysis.lineage.entry import Entry
from weightspace.analysis.lineage.evidence import Finding, evidences
from weightspace.analysis.lineage.groups import Distances, distances, groups
from weightspace.analysis.lineage.merges import Mixture, mixtures
from weightspace.analysis.lineage.probability import CERTAIN
from weightspace.analysis.lineage.sketch import VERSION, Sketch, restored, sketched
from weightspace.analysis.lineage.steps import step
from weightspace.analysis.lineage.tree import Relation
from weightspace.linalg import Cache

NEAR = 0.97  # relative squared distance under which two models may be relatives
NEAREST, SLACK = 24, 1.3  # models whose distance is taken from the weights: so many, as far away as this times the nearest
CLOSEST = (4, 2, 3, 6)
"""Of those, how many are compared in full: by distance, by distance against the norms, by equal elements, by small steps."""

PRECEDENCE = ("copy", "renamed", "pruned", "cast", "quantised", "lora", "finetune")

ROUNDED = 1.5  # times the error that is expected of half precision, that a sum may be off by
_BITS = {"BF16": 7, "F16": 10}  # of the fraction

Array = np.ndarray[Any, np.dtype[Any]]


def sketches_of(entries: Sequence[Entry], cache: Cache | None) -> list[Sketch]:
    """Sketch every model, or take its sketch from the cache."""
    made = []
    for entry in entries:
        key = f"{entry.content}/lineage sketch {VERSION}"
        kept = None if cache is None else cache.get(key)
        sketch = None if kept is None else restored(entry.checkpoint, kept)
        if sketch is None:
            sketch = sketched(entry.checkpoint)
            if cache is not None:
                cache[key] = sketch.tensors()
        made.append(sketch)
    return made


def spans_of(sketches: Sequence[Sketch]) -> list[Distances]:
    """Distances between all models that can be compared."""
    return list(distances(groups(sketches)))


def near_pairs(spans: Sequence[Distances], wanted: Set[tuple[int, int]]) -> dict[tuple[int, int], Array]:
    """Of every model, those that may be its nearest, and pairs that are wanted: the two models' numbers and the places of their shared tensors."""
    found: dict[int, list[tuple[float, float, int]]] = {}
    places: dict[tuple[int, int], Array] = {}
    for span in spans:
        for row, column in np.argwhere(span.relative < NEAR).tolist():
            i, j = span.rows.members[row], span.columns.members[column]
            if i == j or (span.rows is span.columns and i > j):
                continue
            measured = float(span.apart[row, column]), float(span.relative[row, column])
            found.setdefault(i, []).append((*measured, j))
            found.setdefault(j, []).append((*measured, i))
            places[min(i, j), max(i, j)] = span.counterparts if i < j else span.counterparts[:, ::-1]
        for i, j in wanted - places.keys():
            for one, other, counterparts in ((i, j, span.counterparts), (j, i, span.counterparts[:, ::-1])):
                if one in span.rows.members and other in span.columns.members:
                    places[i, j] = counterparts
    chosen = set(wanted & places.keys())
    for i, near in found.items():
        near.sort()
        reach = SLACK * near[min(CLOSEST[0], len(near)) - 1][0]
        chosen |= {(min(i, j), max(i, j)) for distance, _, j in near[:NEAREST] if distance <= reach}
        chosen |= {(min(i, j), max(i, j)) for _, _, j in sorted(near, key=lambda one: one[1])[:NEAREST]}
    return {pair: places[pair] for pair in sorted(chosen)}


def compared(
    entries: Sequence[Entry], sketches: Sequence[Sketch], spans: Sequence[Distances], wanted: Set[tuple[int, int]] = frozenset()
) -> Iterator[tuple[int, int, Comparison, float]]:
    """Compare every model with its closest, by the distances of the weights themselves; with the step between the two.

    Args:
        entries: the models.
        sketches: theirs.
        spans: their distances.
        wanted: pairs, the smaller number first, that are compared however far apart they lie.
    """
    read = Reader()
    near = near_pairs(spans, wanted)
    ranked: dict[int, list[tuple[float, float, float, float, tuple[int, int]]]] = {}
    for (i, j), places in near.items():
        apart, equal, moved = _glance(entries[i], entries[j], sketches[i], sketches[j], places, read)
        # A model that lost most of its weights is near to nothing but least far, for its norm, from what it was.
        relative = apart / float(sketches[i].squares[places[:, 0]].sum() + sketches[j].squares[places[:, 1]].sum())
        for one in (i, j):
            ranked.setdefault(one, []).append((apart, relative, -equal, moved, (i, j)))
    orders = [sorted(found, key=lambda one: one[by])[:count] for found in ranked.values() for by, count in enumerate(CLOSEST)]
    steps = {pair: moved for found in ranked.values() for *_, moved, pair in found}
    for i, j in sorted({pair for order in orders for *_, pair in order} | (wanted & near.keys())):
        kept = [(int(a), int(b)) for a, b in near[i, j]]
        yield i, j, comparison(entries[i], entries[j], (sketches[i], sketches[j]), kept, read), steps[i, j]


def _glance(first: Entry, second: Entry, one: Sketch, other: Sketch, places: Array, read: Reader) -> tuple[float, int, float]:
    """Sum of squared differences over the shared matrices, how many elements are equal and not zero, and the step between the two."""
    kept = [(int(a), int(b)) for a, b in places if one.is_finite[a] and other.is_finite[b]]
    same = [bool(one.digests[a, 0] == other.digests[b, 0]) for a, b in kept]
    total, equal = 0.0, 0

    def pair(at: int) -> tuple[Array, Array]:
        a, b = kept[at]
        return read(first, one.names[a]), read(second, other.names[b])

    for at, (a, _) in enumerate(kept):
        if not one.is_matrix[a]:
            continue
        if same[at]:
            equal += int(one.sizes[a])
            continue
        x, y = pair(at)
        apart = y - x
        total += float(apart @ apart)
        equal += int(np.count_nonzero((apart == 0) & (x != 0)))
    sizes, matrices = [int(one.sizes[a]) for a, _ in kept], [bool(one.is_matrix[a]) for a, _ in kept]
    return total, equal, step(pair, sizes, matrices, same)


def relation_of(i: int, j: int, pair: Comparison, moved: float) -> Relation | None:
    """Ask every kind of evidence; the most exact one decides, the others are reasons too. `moved` is the step between the two."""
    found = [one for one in (ask(pair) for ask in evidences.values()) if one is not None]
    if not found:
        return None
    found.sort(key=lambda one: (not one.is_exact, PRECEDENCE.index(one.kind)))
    return Relation(i, j, tuple(found), pair.distance, step=moved)


def merges_of(entries: Sequence[Entry], spans: Sequence[Distances], skip: Mapping[int, set[int]]) -> dict[int, list[Relation]]:
    """Which models are sums of others.

    Args:
        entries: the models.
        spans: distances within every group; merges across groups are not looked for.
        skip: models that each may not be a sum of: copies of it, and what was rounded or pruned from it.
    """
    made: dict[int, list[Relation]] = {}
    for span in spans:
        members = span.rows.members
        if span.rows is not span.columns or len(members) < 3:
            continue
        grams = _grams(span)
        noise = [float(grams[:, row, row].sum()) * _noise(entries[one]) for row, one in enumerate(members)]
        for found in mixtures(grams, [_nearest(span, row, skip) for row in range(len(members))], noise):
            made[members[found.child]] = [*_parents(span, found)]
    return made


def _nearest(span: Distances, row: int, skip: Mapping[int, set[int]]) -> list[int]:
    """Rows of the models that one may be a sum of."""
    members = span.rows.members
    barred = skip.get(members[row], set())
    order = np.argsort(span.relative[row], kind="stable").tolist()
    return [k for k in order if k != row and members[k] not in barred and span.relative[row, k] < NEAR]


def _noise(entry: Entry) -> float:
    """Share of the squares of a model that storing it in half precision takes or adds: digits from 1 to 2, evenly in their logarithms."""
    bits = [_BITS.get(dtype, 23) for dtype in {info.dtype for info in entry.checkpoint.info.values()}]
    step = 2.0 ** -min(bits, default=23)
    return ROUNDED * step**2 / 12 * (2 * math.log(2) / 3)


def _grams(span: Distances) -> Array:
    """Inner products of the projections of each matrix, all at the same scale."""
    group = span.rows
    scale = group.squares.mean(0)
    kept = np.flatnonzero(group.is_finite.all(0) & (scale > 0) & group.first.is_matrix)
    products = [group.projections[:, t] @ group.projections[:, t].T * (group.first.sizes[t] ** 0.5 / scale[t]) for t in kept]
    return np.stack(products) if products else np.zeros((1, len(group.members), len(group.members)))


def _parents(span: Distances, found: Mixture) -> Iterator[Relation]:
    """The parents of a merge; a base that only differences were taken from is none."""
    members = span.rows.members
    shares = ", ".join(f"{weight:.3f}" for weight in found.weights)
    for parent, weight in zip(found.parents, found.weights, strict=True):
        if weight > 0:
            text = f"a sum of {len(found.parents)} models with weights {shares}; {found.residual:.1e} of the squared distance left"
            reason = Reason("merge", text, {"weight": weight, "residual": found.residual})
            finding = Finding("merge", CERTAIN, CERTAIN, reason, is_exact=True)
            distance = float(span.apart[found.child, parent])
            yield Relation(members[parent], members[found.child], (finding,), distance, weight)
