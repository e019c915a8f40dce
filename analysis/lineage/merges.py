"""Merges: a model that is a weighted sum of others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

EXACT = 1e-4  # of the squared distance to the nearest parent that may stay unexplained
TOTAL = (0.9, 1.3)  # what the weights of two parents add up to: 1 in an average, a little more along a sphere
ALONE = 1e-3  # of the squared distance to another model that is left when that one may be scaled, where nothing but scale changed
LEAST = 0.02  # weight that a parent has
NEIGHBOURS = {2: 24, 3: 14, 4: 10}  # how many of a model's nearest are tried in sums of so many

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
    def models(self) -> frozenset[int]:
        """All that the relation is of."""
        return frozenset((self.child, *self.parents))

    @property
    def effort(self) -> float:
        """Sum of the weights' magnitudes: 1 for an average. The same relation solved for a parent needs more."""
        return sum(abs(weight) for weight in self.weights)


def mixtures(grams: Grams, nearest: Sequence[Sequence[int]]) -> list[Mixture]:
    """Find the models that are sums of two to four others.

    Sums of two may have other weights in each tensor and need not add up to 1 (spherical interpolation); those of more have one
    weight a model, and these add up to 1, one of them below 0 at most (a base, from which differences are taken). A relation can
    be solved for each of its models; the merge is the one that needs the least weights.

    Args:
        grams: inner products of all models, or of their projections, for each tensor.
        nearest: for each model, those that it may be a sum of, nearest first.
    """
    found: dict[frozenset[int], Mixture] = {}
    for child, others in enumerate(nearest):
        if _is_multiple(grams, child, others):
            continue
        best = next((one for one in _candidates(grams, child, others) if one is not None), None)
        if best is not None and (best.models not in found or best.effort < found[best.models].effort):
            found[best.models] = best
    return list(found.values())


def _is_multiple(grams: Grams, child: int, others: Sequence[int]) -> bool:
    """Whether a model is one other, shrunk or grown: networks that died only decay, and are sums of one another in countless ways."""
    if not len(others):
        return False
    squares = np.diagonal(grams, axis1=1, axis2=2)
    inner = grams[:, child, others]
    alone = (squares[:, child, None] - inner**2 / np.maximum(squares[:, others], 1e-300)).sum(0)
    apart = (squares[:, child, None] + squares[:, others] - 2 * inner).sum(0)
    return bool((alone < ALONE * apart).any())


def _candidates(grams: Grams, child: int, others: Sequence[int]) -> Iterator[Mixture | None]:
    """The best sum of two, of three, of four."""
    for count, limit in NEIGHBOURS.items():
        sets = np.array(list(combinations(others[:limit], count)), np.int64)
        if len(sets):
            yield _pairs(grams, child, sets) if count == 2 else _affine(grams.sum(0), child, sets)


def _pairs(grams: Grams, child: int, sets: Array) -> Mixture | None:
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
    return _chosen(grams.sum(0), child, sets, whole, left.sum(0), (weights.min((0, 2)) > 0) & (total > TOTAL[0]) & (total < TOTAL[1]))


def _affine(gram: Array, child: int, sets: Array) -> Mixture | None:
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
    return _chosen(gram, child, sets, weights, left, (weights < 0).sum(1) < 2)


def _chosen(gram: Array, child: int, sets: Array, weights: Array, left: Array, allowed: Array) -> Mixture | None:
    """The set that leaves least, if that is as good as nothing and every member is needed."""
    square = np.diag(gram)
    apart = square[sets] + square[child] - 2 * gram[sets, child]
    share = np.maximum(left, 0) / np.maximum(apart.min(1), 1e-300)
    needed = allowed & (np.abs(weights).min(1) > LEAST) & (apart.min(1) > 1e-10 * square[child]) & (np.abs(weights).sum(1) < 4)
    share = np.where(needed, share, np.inf)
    best = int(share.argmin())
    if share[best] > EXACT:
        return None
    return Mixture(child, tuple(sets[best].tolist()), tuple(weights[best].tolist()), float(share[best]))
