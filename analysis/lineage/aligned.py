"""Aligned merges: a model that is a weighted sum of a relative and of a stranger whose units were put in its order first."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from weightspace.analysis.lineage.comparison import Reader
from weightspace.analysis.lineage.edge import Reason
from weightspace.analysis.lineage.entry import Entry
from weightspace.analysis.lineage.evidence import Finding
from weightspace.analysis.lineage.groups import Distances
from weightspace.analysis.lineage.probability import CERTAIN
from weightspace.analysis.lineage.sketch import quantiles
from weightspace.analysis.lineage.tree import Relation

WEIGHTS = (1 / 2, 1 / 3, 2 / 3, 0.3, 0.7, 0.4, 0.6, 0.2, 0.8, 0.25, 0.75, 0.1, 0.9)
"""Of the relative, those that are tried: the likeliest first."""
NEAREST, NEAR, FAR = 6, 0.02, 0.9  # how many relatives are tried, as far away as a half or so of a stranger makes a model
STRANGE = 0.5  # relative distance from which two are in orders of their own; sums of those in one order are found without this
SAME = 1e-4  # of the largest magnitude that quantiles may differ by
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
            found = next(_parents(entries, span, row, skip.get(child, set()), read), None)
            if found is not None:
                made[child] = list(found)
    return made


def _parents(entries: Sequence[Entry], span: Distances, row: int, barred: set[int], read: Reader) -> Iterator[tuple[Relation, Relation]]:
    group, members = span.rows, span.rows.members
    order = [at for at in np.argsort(span.relative[row], kind="stable").tolist() if at != row and members[at] not in barred]
    near = [at for at in order if NEAR < span.relative[row, at] < FAR][:NEAREST]
    usable = [
        t
        for t in range(len(group.first.names))
        if group.first.is_matrix[t] and group.first.sizes[t] >= LEAST and group.is_finite[:, t].all()
    ]
    if not usable or not near:
        return
    usable.sort(key=lambda t: int(group.first.sizes[t]))
    for at in near:
        for weight in WEIGHTS:
            others = [one for one in range(len(members)) if one not in (row, at) and span.relative[at, one] > STRANGE]
            for t in usable:
                name = group.first.names[t]
                x, a = read(entries[members[row]], name), read(entries[members[at]], name)
                left = quantiles((x - weight * a) / (1 - weight))
                others = [one for one in others if np.abs(group.sketches[one].quantiles[t] - left).max() <= SAME * left.max()]
                if not others:
                    break
            if others:
                yield _relation(span, at, row, weight), _relation(span, others[0], row, 1 - weight)


def _relation(span: Distances, parent: int, child: int, weight: float) -> Relation:
    members = span.rows.members
    text = f"a sum of two models with weights {weight:.3f}, {1 - weight:.3f}, the one in the order of the other"
    finding = Finding("merge", CERTAIN, CERTAIN, Reason("merge", text, {"weight": weight}), is_exact=True)
    return Relation(members[parent], members[child], (finding,), float(span.apart[child, parent]), weight)
