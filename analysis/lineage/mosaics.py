"""Mosaics: models whose elements are taken from several others, one by one, as merges that elect one of several changes leave them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weightspace.analysis.lineage.comparison import Reader
from weightspace.analysis.lineage.edge import Reason
from weightspace.analysis.lineage.entry import Entry
from weightspace.analysis.lineage.groups import Distances
from weightspace.analysis.lineage.merges import parenthood
from weightspace.analysis.lineage.tree import Relation

FAR = 0.6  # relative distance up to which models are looked at
SAMPLE, GLANCE = 1 << 16, 1 << 12  # elements of a model that are looked at, and those by which most others are passed over
SAME = 2.0**-21  # of an element that it may be off by: changes are added to a base in float32
PIECE = 0.05  # share of the elements that each model gives and none of the others
COVERED = 0.3  # share that all give together: the rest are means of changes that agree, and lie between them
BETWEEN = 0.005  # share that is such means at least: a parent may be covered by children that trained different parts of it
OUTSIDE = 0.02  # share of the rest that may lie elsewhere; of a parent, what both of two children changed lies between them half the time

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Mosaic:
    """A model, by number of its row, and those that its elements come from, with the share that each adds."""

    child: int
    pieces: Mapping[int, float]


def mosaics(entries: Sequence[Entry], spans: Sequence[Distances], skip: Mapping[int, set[int]]) -> dict[int, list[Relation]]:
    """Find the models that took each element from one of several others, or from their mean.

    TIES (Yadav et al., arXiv:2306.01708) keeps the base where no change is among the largest, and a model's value where its change alone
    is. Children that each trained few elements cover their parent, too, but what two of them changed lies to either side of it as often as not;
    where there is too little of that to tell, the parent is no mosaic.

    Args:
        entries: the models.
        spans: distances within every group.
        skip: for each model, those that it may not be made of: copies, and what was rounded, pruned or made by an adapter from it.
    """
    read = Reader()
    made: dict[int, list[Relation]] = {}
    for span in spans:
        if span.rows is span.columns and len(span.rows.members) > 2:
            samples = np.stack([_sample(entries[one], span, read) for one in span.rows.members])
            for found in _independent(samples, [_others(span, samples, row, skip) for row in range(len(samples))]):
                made[span.rows.members[found.child]] = [_relation(span, found, parent) for parent in found.pieces]
    return made


def _others(span: Distances, samples: Array, row: int, skip: Mapping[int, set[int]]) -> list[int]:
    """Rows of the models that one may be made of: those with fewest zeros first, as a pruned model shares its elements with what was pruned."""
    members = span.rows.members
    barred = skip.get(members[row], set())
    others = [at for at in range(len(members)) if at != row and members[at] not in barred and span.relative[row, at] < FAR]
    return sorted(others, key=lambda at: int(np.count_nonzero(samples[at] == 0)))


def _independent(samples: Array, others: Sequence[Sequence[int]]) -> Iterator[Mosaic]:
    """Mosaics none of which is a piece of another: they share elements with one another, too."""
    found = {row: one for row, kept in enumerate(others) if (one := _mosaic(samples, row, kept)) is not None}
    for row in found:
        one = _mosaic(samples, row, [at for at in others[row] if at not in found])
        if one is not None:
            yield one


def _sample(entry: Entry, span: Distances, read: Reader) -> Array:
    """Elements of a model's matrices, the same ones of all models of a group; matrices that are finite in all."""
    first = span.rows.first
    usable = np.flatnonzero(first.is_matrix & span.rows.is_finite.all(0)).tolist()
    step = 1 + int(first.sizes[usable].sum()) // SAMPLE
    # Copied, so that of a large model one matrix at a time is held.
    return np.concatenate([np.zeros(0), *(read(entry, first.names[t])[::step].copy() for t in usable)])


def _mosaic(samples: Array, row: int, others: Sequence[int]) -> Mosaic | None:
    """Cover a model's elements with those of others, always with that one which adds most; what is left has to lie between them."""
    x = samples[row]
    few = slice(None, None, 1 + len(x) // GLANCE)
    others = [at for at in others if np.count_nonzero(_equal(x[few], samples[at][few])) > PIECE / 2 * len(x[few])]
    if len(others) < 2:
        return None
    equal = np.stack([_equal(x, samples[at]) for at in others])
    pieces: dict[int, float] = {}
    left = x != 0
    while (shares := (equal & left).mean(1)).max() >= PIECE:
        best = int(shares.argmax())
        pieces[others[best]] = float(shares[best])
        left = left & ~equal[best]
    if len(pieces) < 2 or sum(pieces.values()) < COVERED:
        return None
    sources = samples[list(pieces)][:, left]
    slack = SAME * np.abs(sources).max(0)
    outside = (x[left] < sources.min(0) - slack) | (x[left] > sources.max(0) + slack)
    return Mosaic(row, pieces) if left.mean() >= BETWEEN and outside.mean() <= OUTSIDE else None


def _equal(x: Array, y: Array) -> Array:
    """Which elements are the same but for rounding, zeros left out."""
    made: Array = (np.abs(y - x) <= SAME * np.abs(x)) & (x != 0)
    return made


def _relation(span: Distances, found: Mosaic, parent: int) -> Relation:
    shares = ", ".join(f"{share:.0%}" for share in found.pieces.values())
    text = f"its elements are those of {len(found.pieces)} models: {shares} of them"
    share = found.pieces[parent]
    return parenthood(span, parent, found.child, share, Reason("merge", text, {"share": share}))
