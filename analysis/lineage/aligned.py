"""Aligned merges: a model that is a weighted sum of a relative and of a stranger whose units were put in its order first."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from weightspace.analysis.lineage.comparison import Reader
from weightspace.analysis.lineage.edge import Reason
from weightspace.analysis.lineage.entry import Entry
from weightspace.analysis.lineage.groups import Distances, Group
from weightspace.analysis.lineage.merges import parenthood
from weightspace.analysis.lineage.sketch import quantiles
from weightspace.analysis.lineage.tree import Relation

WEIGHTS = (1 / 2, 1 / 3, 2 / 3, 0.3, 0.7, 0.4, 0.6, 0.2, 0.8, 0.25, 0.75, 0.1, 0.9)
"""Of the relative, those that are tried: the likeliest first."""
NEAR = 0.005  # relative distance from a model of the relatives that are tried: a half or so of a stranger moves it as far
STRANGE = 0.05  # relative distance from which two are strangers enough; sums of those in one order are found without this
SAME = 1e-4  # of the largest magnitude that quantiles may differ by
NORM = 1e-3  # of the sum of squares that it may differ by, so that quantiles are worth a look
WHOLE = 0.5  # of the sum of squares of its two parts, that a model has at least: a network that died is no sum of two that cancel
LEAST = 64  # elements of the matrix by which most are refused

Array = np.ndarray[Any, np.dtype[Any]]


def aligned_merges(entries: Sequence[Entry], spans: Sequence[Distances], skip: Mapping[int, set[int]]) -> dict[int, list[Relation]]:
    """Find aligned merges of two.

    Where `x = w a + (1 - w) P b`, what is left of x without its part of a, `(x - w a) / (1 - w)`, has the magnitudes of b: no order of units
    changes the quantiles that sketches keep. Weights are those of `WEIGHTS`; a merge that was cast or pruned since is not found.

    Args:
        entries: the models.
        spans: distances within every group.
        skip: for each model, those that it may not be a merge of: copies, and what was rounded or pruned from it.
    """
    read = Reader()
    made: dict[int, list[Relation]] = {}
    for span in spans:
        if span.rows is not span.columns or len(span.rows.members) < 3:
            continue
        for row, child in enumerate(span.rows.members):
            found = _parents(entries, span, row, skip.get(child, set()), read)
            if found is not None:
                made[child] = list(found)
    return made


def _parents(entries: Sequence[Entry], span: Distances, row: int, barred: set[int], read: Reader) -> tuple[Relation, Relation] | None:
    """The relative and the stranger that a model is a sum of, if there are such."""
    group, members = span.rows, span.rows.members
    first = group.first
    usable = [t for t in range(len(first.names)) if first.is_matrix[t] and first.sizes[t] >= LEAST and group.is_finite[:, t].all()]
    if not usable:
        return None
    t = min(usable, key=lambda t: int(first.sizes[t]))
    x, tried = read(entries[members[row]], first.names[t]), set()
    found: list[tuple[float, int, int, float]] = []
    for at in np.argsort(span.relative[row], kind="stable").tolist():
        digest = int(group.sketches[at].digests[t, 0])
        if at == row or members[at] in barred or span.relative[row, at] < NEAR or digest in tried:
            continue
        tried.add(digest)
        strangers = np.flatnonzero(span.relative[at] > STRANGE)
        strangers = strangers[(strangers != row) & (strangers != at)]
        for weight, others in _of_equal_norm(x, read(entries[members[at]], first.names[t]), group.squares[strangers, t]):
            found += [(_left(entries, group, (row, at, one), weight, usable, read), at, one, weight) for one in strangers[others].tolist()]
    left, at, other, weight = min(found, default=(math.inf, 0, 0, 0.0))
    return (_relation(span, at, row, weight), _relation(span, other, row, 1 - weight)) if left <= SAME else None


def _of_equal_norm(x: Array, a: Array, squares: Array) -> Iterator[tuple[float, Array]]:
    """The weights at which what is left of x has the norm of one of the others, and which of them."""
    own, inner, other = float(x @ x), float(x @ a), float(a @ a)
    for weight in WEIGHTS:
        square = (own - 2 * weight * inner + weight**2 * other) / (1 - weight) ** 2
        fitting = np.abs(squares - square) <= NORM * square
        parts = weight**2 * other + (1 - weight) ** 2 * square
        if square > 0 and own > WHOLE * parts and fitting.any():
            yield weight, fitting


def _left(entries: Sequence[Entry], group: Group, rows: tuple[int, int, int], weight: float, usable: Sequence[int], read: Reader) -> float:
    """How far the quantiles of what is left of a model without a relative's part are from those of another, in the largest magnitude."""
    child, parent, other = rows
    worst = 0.0
    for t in usable:
        name = group.first.names[t]
        x, a = read(entries[group.members[child]], name), read(entries[group.members[parent]], name)
        left = quantiles((x - weight * a) / (1 - weight))
        worst = max(worst, float(np.abs(group.sketches[other].quantiles[t] - left).max() / max(float(left.max()), 1e-300)))
        if worst > SAME:
            break
    return worst


def _relation(span: Distances, parent: int, child: int, weight: float) -> Relation:
    text = f"a sum of two models with weights {weight:.3f}, {1 - weight:.3f}, the one in the order of the other"
    return parenthood(span, parent, child, weight, Reason("merge", text, {"weight": weight}))
