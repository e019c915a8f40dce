"""What is measured of a merged tensor, and the signs that a merge went wrong."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

SHRUNK, GROWN = 0.8, 1.7
"""A norm below this share of the least of the parents' norms, or above this multiple of the greatest, is said.

The mean of two networks that have nothing in common has a norm 0.71 times theirs, that of two fine-tuned ones nearly their own.
"""


FIRST, EVERY = 8, 4
"""Of a tensor of many slabs, the first ones and then every fourth are compared with the parents: to know how far apart they are takes longer than to merge them."""


@dataclass
class Measuring:
    """Sums over the slabs of one tensor.

    Attributes:
        square: of the result.
        nonfinite: elements that are NaN or infinite.
        slabs: so far.
        numel: elements of slabs after the first, all of them, and those that were compared.
        squares: of each part, the base last: of the first slabs, and of those compared after.
        apart: squared distances from the result to each part, likewise.
    """

    square: float = 0.0
    nonfinite: int = 0
    slabs: int = 0
    numel: tuple[int, int] = (0, 0)
    squares: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))
    apart: tuple[list[float], list[float]] = field(default_factory=lambda: ([], []))

    def add(self, made: Tensor, parts: Sequence[Tensor]) -> None:
        """Take in one slab.

        Args:
            made: as it was rounded, in the dtype that is computed in.
            parts: what it was made of, the base last.
        """
        if not self.slabs:
            self.squares, self.apart = (([0.0] * len(parts), [0.0] * len(parts)) for _ in range(2))
        square = _square(made)
        self.square += square
        if square - square != 0.0:
            self.nonfinite += int((~torch.isfinite(made)).sum())
        late, self.slabs = self.slabs - FIRST, self.slabs + 1
        is_compared = late < 0 or late % EVERY == 0
        if late >= 0:
            self.numel = (self.numel[0] + made.numel(), self.numel[1] + is_compared * made.numel())
        for at, part in enumerate(parts if is_compared else ()):
            self.squares[late >= 0][at] += _square(part)
            self.apart[late >= 0][at] += _square(made - part)

    @property
    def found(self) -> "Measured":
        """The norms."""
        return Measured(self.square**0.5, self.nonfinite, self._norms(self.squares), self._norms(self.apart))

    def _norms(self, squares: tuple[list[float], list[float]]) -> tuple[float, ...]:
        share = self.numel[0] / self.numel[1] if self.numel[1] else 0.0
        return tuple((first + share * late) ** 0.5 for first, late in zip(*squares, strict=True))


def _square(tensor: Tensor) -> float:
    flat = tensor.reshape(-1)
    return float(torch.dot(flat, flat))


@dataclass(frozen=True)
class Measured:
    """What a merged tensor is like.

    Attributes:
        norm: Frobenius norm.
        nonfinite: elements that are NaN or infinite.
        norms: of what it was made of, the base last; of tensors with more than two million elements estimated from a part of their rows.
        distances: from it to each of those; likewise.
    """

    norm: float
    nonfinite: int
    norms: tuple[float, ...]
    distances: tuple[float, ...]

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> "Measured":
        """Take it back from JSON."""
        return cls(said["norm"], said["nonfinite"], tuple(said["norms"]), tuple(said["distances"]))


def warnings(measured: Mapping[str, Measured]) -> Iterator[str]:
    """Say what looks like a broken merge, one line each."""
    broken = {name: one.nonfinite for name, one in measured.items() if one.nonfinite}
    if broken:
        name = next(iter(broken))
        yield f"{sum(broken.values())} elements of {len(broken)} tensors are NaN or infinite, first in '{name}'; look at the inputs, or write a wider out_dtype"
    shrunk = [name for name, one in measured.items() if len(one.norms) > 1 and 0 < min(one.norms) and one.norm < SHRUNK * min(one.norms)]
    if shrunk:
        yield (
            f"{len(shrunk)} of {len(measured)} tensors have a norm below {SHRUNK:.0%} of every parent's, first '{shrunk[0]}': the parents point "
            "in different directions, as networks that were trained apart do; align them first (align: weight), or mend with repair"
        )
    grown = [name for name, one in measured.items() if one.norms and one.norm > GROWN * max(one.norms) > 0]
    if grown:
        yield (
            f"{len(grown)} of {len(measured)} tensors have a norm above {GROWN:.0%} of every parent's, first '{grown[0]}'; "
            "lower the weights or lambda, or normalize"
        )
