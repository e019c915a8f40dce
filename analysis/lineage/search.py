"""The search: which pairs of models are worth a look, and what is found of each; weights are read for those alone."""

from collections.abc import Iterator, Sequence, Set
from typing import Any

import numpy as np

from weightspace.analysis.lineage.comparison import Comparison, Reader, comparison
from weightspace.analysis.lineage.entry import Entry
from weightspace.analysis.lineage.evidence import evidences
from weightspace.analysis.lineage.groups import Distances, distances, groups
from weightspace.analysis.lineage.sketch import VERSION, Sketch, restored, sketched
from weightspace.analysis.lineage.steps import step
from weightspace.analysis.lineage.tree import Relation
from weightspace.linalg import Cache

NEAR = 0.97  # relative squared distance under which two models may be relatives
NEAREST, SLACK = 24, 1.3  # models whose distance is taken from the weights: so many, as far away as this times the nearest
CLOSEST = (4, 2, 3, 6)
"""Of those, how many are compared in full: by distance, by distance against the norms, by equal elements, by small steps."""

PRECEDENCE = ("copy", "renamed", "pruned", "cast", "quantised", "lora", "finetune")

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
