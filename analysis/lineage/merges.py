"""Merges: a model that is a weighted sum of others."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from weightspace.analysis.lineage.edge import Reason
from weightspace.analysis.lineage.entry import Entry
from weightspace.analysis.lineage.evidence import Finding
from weightspace.analysis.lineage.groups import Distances
from weightspace.analysis.lineage.probability import CERTAIN
from weightspace.analysis.lineage.tree import Relation

NEAR = 0.97  # relative squared distance under which a model may be a part of another
EXACT = 1e-4  # of the squared distance to the nearest parent that may stay unexplained
TOTAL = (0.9, 1.3)  # what the weights of two parents add up to: 1 in an average, a little more along a sphere
ALONE = 1e-3  # of the squared distance to another model that is left when that one may be scaled, where nothing but scale changed
ALIKE = 100  # times what the best sum leaves, that another may leave and count as no worse
LEAST = 0.02  # weight that a parent has, in every tensor: fine-tunes of different layers otherwise have their parent for a merge
CLEAR = 10  # times the error of storing a model in few bits, that its nearest parent is away: else any sum explains it
ROUNDED = 1.5  # times the error that is expected of half precision, that a sum may be off by
_BITS = {"BF16": 7, "F16": 10}  # of the fraction
NEIGHBOURS = {2: 32, 3: 24, 4: 12}  # how many of a model's nearest are tried in sums of so many

Array = np.ndarray[Any, np.dtype[Any]]
Grams = Float[np.ndarray, "tensors models models"]


@dataclass(frozen=True)
class Mixture:
    """A model written as a sum of others.

    Attributes:
        child: its number.
        parents: numbers of the others.
        weights: of each, over all tensors.
        residual: share of the squared distance to the nearest parent that the sum leaves.
    """

    child: int
    parents: tuple[int, ...]
    weights: tuple[float, ...]
    residual: float

    @property
    def effort(self) -> float:
        """Sum of the weights' magnitudes: 1 for an average. The same relation solved for a parent needs more."""
        return sum(abs(weight) for weight in self.weights)


def merges_of(entries: Sequence[Entry], spans: Sequence[Distances], skip: Mapping[int, set[int]]) -> dict[int, list[Relation]]:
    """Find the models that are sums of others.

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
    shares = ", ".join(f"{weight:.3f}" for weight in found.weights)
    for parent, weight in zip(found.parents, found.weights, strict=True):
        if weight > 0:
            text = f"a sum of {len(found.parents)} models with weights {shares}; {found.residual:.1e} of the squared distance left"
            yield parenthood(span, parent, found.child, weight, Reason("merge", text, {"weight": weight, "residual": found.residual}))


def parenthood(span: Distances, parent: int, child: int, weight: float, reason: Reason) -> Relation:
    """That one row of a group is a parent of another, a merge, by what holds element by element."""
    members = span.rows.members
    finding = Finding("merge", CERTAIN, CERTAIN, reason, is_exact=True)
    return Relation(members[parent], members[child], (finding,), float(span.apart[child, parent]), weight)


def mixtures(grams: Grams, nearest: Sequence[Sequence[int]], noise: Sequence[float]) -> list[Mixture]:
    """Find the models that are sums of two to four others.

    Sums of two may have other weights in each tensor and need not add up to 1 (spherical interpolation); those of more have one
    weight a model, and these add up to 1, one of them below 0 at most (a base, from which differences are taken). A relation can
    be solved for each of its models; the merge is the one that needs the least weights, and no model is a sum of what is a sum of it.

    Args:
        grams: inner products of all models, or of their projections, for each tensor.
        nearest: for each model, those that it may be a sum of, nearest first.
        noise: for each model, the sum of squares that storing it in few bits takes or adds, at the scale of `grams`.
    """
    found = []
    for child, others in enumerate(nearest):
        if not _is_multiple(grams, child, others):
            found += [one for one in _candidates(grams, child, others, noise[child]) if one is not None][:1]
    made: dict[int, Mixture] = {}
    for one in sorted(found, key=lambda one: one.effort):
        if not any(one.child in _origins(parent, made) for parent in one.parents):
            made[one.child] = one
    return list(made.values())


def _origins(model: int, made: Mapping[int, Mixture]) -> set[int]:
    """A model and all that it is a sum of, directly or through others."""
    parents = made[model].parents if model in made else ()
    return {model}.union(*(_origins(parent, made) for parent in parents))


def _is_multiple(grams: Grams, child: int, others: Sequence[int]) -> bool:
    """Whether a model is one other, shrunk or grown: networks that died only decay, and are sums of one another in countless ways."""
    if not len(others):
        return False
    squares = np.diagonal(grams, axis1=1, axis2=2)
    inner = grams[:, child, others]
    alone = (squares[:, child, None] - inner**2 / np.maximum(squares[:, others], 1e-300)).sum(0)
    apart = (squares[:, child, None] + squares[:, others] - 2 * inner).sum(0)
    return bool((alone < ALONE * apart).any())


def _candidates(grams: Grams, child: int, others: Sequence[int], noise: float) -> Iterator[Mixture | None]:
    """The best sum of two, of three, of four."""
    for count, limit in NEIGHBOURS.items():
        sets = np.array(list(combinations(others[:limit], count)), np.int64)
        if len(sets):
            yield _pairs(grams, child, sets, noise) if count == 2 else _affine(grams.sum(0), child, sets, noise)


def _pairs(grams: Grams, child: int, sets: Array, noise: float) -> Mixture | None:
    """Least squares in every tensor apart."""
    matrices = grams[:, sets[:, :, None], sets[:, None, :]]
    wanted = grams[:, child, sets]
    scale = np.maximum(np.trace(matrices, axis1=-2, axis2=-1), 1e-300)
    ridge = 1e-12 * scale[..., None, None] * np.eye(2)
    weights = np.linalg.solve(matrices + ridge, wanted[..., None])[..., 0]
    square = grams[:, child, child][:, None]
    left = square - 2 * (weights * wanted).sum(-1) + np.einsum("tsi,tsij,tsj->ts", weights, matrices, weights)
    share = square / np.maximum(grams[:, child, child].sum(), 1e-300)
    whole = (weights * share[..., None]).sum(0)
    total = whole.sum(1)
    allowed = (weights.min((0, 2)) > LEAST) & (total > TOTAL[0]) & (total < TOTAL[1])
    return _chosen(grams.sum(0), child, sets, whole, left.sum(0), allowed, noise)


def _affine(gram: Array, child: int, sets: Array, noise: float) -> Mixture | None:
    """Least squares over all tensors, the weights adding up to 1: sums of differences from the last."""
    at = np.concatenate([sets[:, :-1], np.full((len(sets), 1), child)], 1)
    last = sets[:, -1]
    products = gram[at[:, :, None], at[:, None, :]] - gram[at, last[:, None]][:, :, None] - gram[at, last[:, None]][:, None, :]
    products = products + gram[last, last][:, None, None]
    matrices, wanted, square = products[:, :-1, :-1], products[:, :-1, -1], products[:, -1, -1]
    ridge = 1e-12 * np.maximum(np.trace(matrices, axis1=-2, axis2=-1), 1e-300)[:, None, None] * np.eye(matrices.shape[-1])
    weights = np.linalg.solve(matrices + ridge, wanted[..., None])[..., 0]
    left = square - 2 * (weights * wanted).sum(-1) + np.einsum("si,sij,sj->s", weights, matrices, weights)
    weights = np.concatenate([weights, 1 - weights.sum(1, keepdims=True)], 1)
    return _chosen(gram, child, sets, weights, left, (weights < 0).sum(1) < 2, noise)


def _chosen(gram: Array, child: int, sets: Array, weights: Array, left: Array, allowed: Array, noise: float) -> Mixture | None:
    """Of the sets that leave as good as nothing, and of which every member is needed, that of the least weights."""
    square = np.diag(gram)
    apart = (square[sets] + square[child] - 2 * gram[sets, child]).min(1)
    share = np.maximum(left - noise, 0) / np.maximum(apart, 1e-300)
    effort = np.abs(weights).sum(1)
    needed = allowed & (np.abs(weights).min(1) > LEAST) & (apart > max(1e-10 * square[child], CLEAR * noise)) & (effort < 4)
    share = np.where(needed, share, np.inf)
    if share.min() > EXACT:
        return None
    alike = share <= max(ALIKE * share.min(), EXACT / ALIKE)
    best = int(np.lexsort((left, np.where(alike, effort.round(3), np.inf)))[0])
    return Mixture(child, tuple(sets[best].tolist()), tuple(weights[best].tolist()), float(share[best]))
