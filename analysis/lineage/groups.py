"""Groups of models of one architecture, and how far any two of them lie apart, from their sketches alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from weightspace.analysis.lineage.sketch import Sketch

SHARED = 0.5  # of the smaller model's matrix elements have to have a counterpart in the other

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Group:
    """Models with the same tensor names and shapes.

    Attributes:
        members: numbers of the models.
        sketches: of each.
    """

    members: tuple[int, ...]
    sketches: tuple[Sketch, ...]

    @property
    def first(self) -> Sketch:
        """Whose names, shapes and sizes are those of all."""
        return self.sketches[0]

    @cached_property
    def projections(self) -> Float[np.ndarray, "models tensors cells"]:
        """Projections of all."""
        return np.stack([one.projections for one in self.sketches])

    @cached_property
    def squares(self) -> Float[np.ndarray, "models tensors"]:
        """Sums of squares of all."""
        return np.stack([one.squares for one in self.sketches])

    @cached_property
    def is_finite(self) -> Shaped[np.ndarray, "models tensors"]:
        """Which tensors are finite in which model."""
        return np.stack([one.is_finite for one in self.sketches])


@dataclass(frozen=True, eq=False)
class Distances:
    """How far the models of two groups lie apart, over the matrices that they share.

    Attributes:
        rows, columns: the groups.
        counterparts: places of tensors in the one and the other, vectors too.
        relative: |a - b|^2 / (|a|^2 + |b|^2), each tensor by its size: 0 for equals, about 1 for strangers.
        apart: |a - b|^2, plain.
        growth: (|b|^2 - |a|^2) / |a - b|^2: the one with more is more likely to be the child.
    """

    rows: Group
    columns: Group
    counterparts: Int[np.ndarray, "tensors 2"]
    relative: Float[np.ndarray, "rows columns"]
    apart: Float[np.ndarray, "rows columns"]
    growth: Float[np.ndarray, "rows columns"]


def groups(sketches: Sequence[Sketch]) -> list[Group]:
    """Put models of equal names and shapes together."""
    found: dict[Any, list[int]] = {}
    for number, sketch in enumerate(sketches):
        if sketch.names:
            found.setdefault(sketch.architecture, []).append(number)
    return [Group(tuple(members), tuple(sketches[m] for m in members)) for members in found.values()]


def distances(found: Sequence[Group]) -> Iterator[Distances]:
    """Compare every two groups that have enough in common, and each with itself."""
    for one, other in combinations_with_replacement(found, 2):
        pairs = counterparts(one, other)
        both = np.minimum(_mass(one.first), _mass(other.first))
        shared = sum(one.first.sizes[a] for a, _ in pairs if one.first.is_matrix[a])
        if len(pairs) and shared > 0 and shared >= SHARED * both:
            yield _measured(one, other, pairs)


def _mass(sketch: Sketch) -> int:
    return int(sketch.sizes[sketch.is_matrix].sum())


def counterparts(one: Group, other: Group) -> Int[np.ndarray, "tensors 2"]:
    """Which tensor of the other group is which of the one: by name, and else by shape and likeness."""
    at = {pair: place for place, pair in enumerate(other.first.architecture)}
    made = [(place, at[pair]) for place, pair in enumerate(one.first.architecture) if pair in at]
    if one is not other:
        taken = {a for a, _ in made}, {b for _, b in made}
        left, right = (_by_shape(group.first, used) for group, used in zip((one, other), taken, strict=True))
        for shape in left.keys() & right.keys():
            made += _alike(one, other, left[shape], right[shape])
    return np.array(sorted(made), np.int64).reshape(-1, 2)


def _by_shape(sketch: Sketch, used: set[int]) -> Mapping[tuple[int, ...], list[int]]:
    found: dict[tuple[int, ...], list[int]] = {}
    for place, shape in enumerate(sketch.shapes):
        if place not in used:
            found.setdefault(shape, []).append(place)
    return found


def _alike(one: Group, other: Group, left: Sequence[int], right: Sequence[int]) -> list[tuple[int, int]]:
    """Assign tensors of one shape to one another, so that the likest models of the two groups agree best; else in order of their names."""
    from scipy.optimize import linear_sum_assignment

    gain = np.zeros((len(left), len(right)))
    for i, a in enumerate(left):
        for j, b in enumerate(right):
            gain[i, j] = _cosines(one, other, a, b).max() - 1e-9 * abs(i - j)
    rows, columns = linear_sum_assignment(-gain)
    return [(left[i], right[j]) for i, j in zip(rows.tolist(), columns.tolist(), strict=True)]


def _cosines(one: Group, other: Group, a: int, b: int) -> Float[np.ndarray, "rows columns"]:
    x, y = one.projections[:, a], other.projections[:, b]
    norms = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(y, axis=1)[None]
    made: Array = (x @ y.T) / np.where(norms > 0, norms, 1.0)
    return made


def _measured(one: Group, other: Group, pairs: Array) -> Distances:
    """Add up over the tensors; a tensor counts by the root of its size, whatever its scale, so that no layer drowns the others."""
    apart = np.zeros((len(one.members), len(other.members)))
    whole, grown, plain = apart.copy(), apart.copy(), apart.copy()
    for a, b in pairs.tolist():
        if not one.first.is_matrix[a]:
            continue
        x, y = one.squares[:, a, None], other.squares[None, :, b]
        fine = one.is_finite[:, a, None] & other.is_finite[None, :, b]
        scale = (x[fine[:, 0]].mean() if fine.any() else 0.0) if x.size else 0.0
        weight = np.where(fine, np.sqrt(float(one.first.sizes[a])) / scale, 0.0) if scale > 0 else np.zeros_like(apart)
        p, q = one.projections[:, a], other.projections[:, b]
        sums = (p * p).sum(1)[:, None] + (q * q).sum(1)[None]
        squared = np.maximum(sums - 2 * p @ q.T, 0)
        plain += np.where(fine, squared, 0.0)
        apart += weight * squared
        whole += weight * (x + y)
        grown += weight * (y - x)
    relative = np.divide(apart, whole, out=np.ones_like(apart), where=whole > 0)
    growth = np.divide(grown, apart, out=np.zeros_like(apart), where=apart > 0)
    return Distances(one, other, pairs, relative, plain, growth)
