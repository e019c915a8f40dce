"""A comparison: two models beside each other, tensor by tensor."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from weightspace.analysis.lineage.entry import Entry
from weightspace.analysis.lineage.sketch import Sketch, flat
from weightspace.analysis.lineage.tensor_pair import TensorPair, compare

FAINT = 0.1  # cosine of two models under which nothing is taken to be left of the one in the other


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two models and what was found of the tensors that they share.

    Attributes:
        first, second: the models.
        sketches: theirs.
        places: of the shared tensors in either sketch.
        tensors: what was found of each, in the order of `places`; those that are not finite are left out of both.
    """

    first: Entry
    second: Entry
    sketches: tuple[Sketch, Sketch]
    places: Sequence[tuple[int, int]]
    tensors: Sequence[TensorPair] = field(repr=False)

    @cached_property
    def changed(self) -> list[TensorPair]:
        """The shared tensors that are not equal."""
        return [one for one in self.tensors if not one.is_equal]

    @cached_property
    def matrices(self) -> list[TensorPair]:
        """The shared tensors with two axes or more, or all where there are none."""
        return [one for one in self.tensors if one.is_matrix] or list(self.tensors)

    @property
    def is_whole(self) -> bool:
        """Whether every tensor of either model is shared."""
        return len(self.places) == len(self.tensors) == len(self.sketches[0].names) == len(self.sketches[1].names)

    @property
    def is_renamed(self) -> bool:
        """Whether a shared tensor has another name in the second."""
        one, other = self.sketches
        return any(one.names[a] != other.names[b] for a, b in self.places)

    @property
    def equal_share(self) -> float:
        """Share of the shared elements that lie in equal tensors."""
        total = sum(one.size for one in self.tensors)
        return sum(one.size for one in self.tensors if one.is_equal) / total if total else 0.0

    @cached_property
    def relative(self) -> float:
        """|a - b|^2 / (|a|^2 + |b|^2) over matrices, each counted by the root of its size: 0 for equals, about 1 for strangers."""
        apart, whole, _ = self._sums
        return apart / whole if whole else 0.0

    @cached_property
    def distance(self) -> float:
        """Sum of squared differences over matrices: what adds up along a path in the tree, as steps are nearly at right angles."""
        return sum(one.apart for one in self.matrices)

    @cached_property
    def growth(self) -> float:
        """(|b|^2 - |a|^2) / |a - b|^2 over matrices: 1 where b is a and a change at right angles to it, 0 where they are alike."""
        apart, _, grown = self._sums
        return grown / apart if apart else 0.0

    @cached_property
    def decay(self) -> float:
        """Mean logarithm of the ratio that the untouched elements of matrices share: negative where the second went on decaying."""
        told = [(one.still[1] * one.size, math.log(one.still[0])) for one in self.matrices if one.still[1]]
        total = sum(weight for weight, _ in told)
        return sum(weight * ratio for weight, ratio in told) / total if total else 0.0

    @property
    def retained(self) -> float:
        """How much of the smaller model is still in the larger: <a, b> / min(|a|^2, |b|^2), between 0 and 1; 0 for strangers of any norms.

        Of a model that is next to nothing beside the other, no more than chance would be seen; that counts as nothing.
        """
        inner, apart = 1 - self.relative, min(1.0, abs(self.growth) * self.relative)  # of |a|^2 + |b|^2
        cosine = inner / math.sqrt(max(1 - apart**2, 1e-12))
        return min(1.0, inner / max(1 - apart, 1e-12)) if cosine > FAINT else 0.0

    @cached_property
    def _sums(self) -> tuple[float, float, float]:
        weights = [one.size**0.5 / (one.first + one.second) if one.first + one.second else 0.0 for one in self.matrices]
        pairs = list(zip(weights, self.matrices, strict=True))
        return (
            sum(w * one.apart for w, one in pairs),
            sum(w * (one.first + one.second) for w, one in pairs),
            sum(w * (one.second - one.first) for w, one in pairs),
        )


def comparison(
    first: Entry, second: Entry, sketches: tuple[Sketch, Sketch], places: Sequence[tuple[int, int]], read: "Reader"
) -> Comparison:
    """Read the shared tensors that are not equal by their hashes, a pair at a time, and compare them."""
    one, other = sketches
    tensors = []
    for a, b in places:
        if not (one.is_finite[a] and other.is_finite[b]):
            continue
        if one.digests[a, 0] == other.digests[b, 0]:
            square = float(one.squares[a])
            tensors.append(TensorPair(one.shapes[a], square, square, square, 0.0, True))
        else:
            tensors.append(compare(read(first, one.names[a]), read(second, other.names[b]), one.shapes[a]))
    return Comparison(first, second, sketches, places, tensors)


class Reader:
    """Reads tensors as rows of float64 and keeps the last ones, up to a number of bytes."""

    def __init__(self, capacity: int = 1 << 29) -> None:
        """Keep nothing yet.

        Args:
            capacity: bytes to keep.
        """
        self._kept: dict[tuple[str, str], np.ndarray] = {}
        self._free = capacity

    def __call__(self, entry: Entry, name: str) -> np.ndarray:
        """One tensor of one model."""
        key = entry.name, name
        if key in self._kept:
            self._kept[key] = self._kept.pop(key)  # now the last that was used
            return self._kept[key]
        values = flat(entry.checkpoint[name])
        self._kept[key] = values
        self._free -= values.nbytes
        while self._free < 0 and len(self._kept) > 1:
            self._free += self._kept.pop(next(iter(self._kept))).nbytes
        return values
