"""A sketch: some numbers of every tensor of a model, from which distances and invariants of any two models follow without their weights.

The projection is a count sketch (Charikar, Chen and Farach-Colton, ICALP 2002): every element is added, with a sign, to one of
`WIDTH` cells. Both hang on the element's place alone, so that tensors of equal length have comparable projections whatever they
are called; inner products of projections are unbiased for those of the tensors, with a relative error of about sqrt(2 / WIDTH),
and a tensor that fits into the cells is kept as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from blake3 import blake3
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from weightspace import dtypes
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.dtypes import widened

WIDTH = 512  # cells of a projection
LEVELS = np.linspace(0.0, 1.0, 33)  # of the quantiles
VERSION = 1  # raised when sketches change, so that kept ones are not mistaken for new ones

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class Sketch:
    """What is kept of one model; all arrays have a row a tensor.

    Attributes:
        names, shapes: of its float tensors, by name; further names of tied ones are left out.
        projections: count sketches; zeros where a tensor is not finite.
        quantiles: of the absolute values: the same for a tensor whose elements were put in another order or changed signs.
        moments: sum of squares, kurtosis, share of zeros, share of distinct values among those that are not zero, whether finite.
        digests: 8 bytes of the tensor's hash, and 8 bytes of a hash of its sorted absolute values.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    projections: Float[np.ndarray, "tensors cells"]
    quantiles: Float[np.ndarray, "tensors levels"]
    moments: Float[np.ndarray, "tensors 5"]
    digests: Int[np.ndarray, "tensors 2"]

    @property
    def squares(self) -> Float[np.ndarray, " tensors"]:
        """Sums of squares."""
        return self.moments[:, 0]

    @property
    def kurtosis(self) -> Float[np.ndarray, " tensors"]:
        """Fourth standardised moments; 3 for a normal distribution, 0 for a constant."""
        return self.moments[:, 1]

    @property
    def zeros(self) -> Float[np.ndarray, " tensors"]:
        """Shares of elements that are zero."""
        return self.moments[:, 2]

    @property
    def distinct(self) -> Float[np.ndarray, " tensors"]:
        """Shares of distinct values among the elements that are not zero."""
        return self.moments[:, 3]

    @property
    def is_finite(self) -> Shaped[np.ndarray, " tensors"]:
        """Which tensors have neither NaN nor infinities."""
        made: Array = self.moments[:, 4] > 0
        return made

    @cached_property
    def sizes(self) -> Int[np.ndarray, " tensors"]:
        """Numbers of elements."""
        return np.array([int(np.prod(shape, dtype=np.int64)) for shape in self.shapes], np.int64)

    @cached_property
    def is_matrix(self) -> Shaped[np.ndarray, " tensors"]:
        """Which tensors have at least two axes that are longer than one."""
        return np.array([sum(length > 1 for length in shape) > 1 for shape in self.shapes], bool)

    @cached_property
    def architecture(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Names and shapes."""
        return tuple(zip(self.names, self.shapes, strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """The sketch as tensors, as a cache keeps it; names and shapes are the checkpoint's to tell."""
        return {what: torch.from_numpy(getattr(self, what)) for what in _KEPT}


_KEPT = ("projections", "quantiles", "moments", "digests")


def sketched(checkpoint: Checkpoint) -> Sketch:
    """Read a model once, a tensor at a time, and keep its sketch.

    Raises:
        FormatError: its bytes are damaged.
    """
    infos = _infos(checkpoint)
    rows = [_row(checkpoint[info.name], checkpoint.tensor_hash(info.name)) for info in infos]
    stacked = [np.array([row[place] for row in rows]) for place in range(4)] if rows else [*_empty()]
    return _named(infos, *stacked)


def restored(checkpoint: Checkpoint, kept: Mapping[str, Tensor]) -> Sketch | None:
    """A sketch that a cache kept of this checkpoint; none where it is not whole."""
    infos = _infos(checkpoint)
    if any(what not in kept or len(kept[what]) != len(infos) for what in _KEPT):
        return None
    return _named(infos, *(kept[what].numpy() for what in _KEPT))


def _named(infos: list[TensorInfo], projections: Array, quantiles: Array, moments: Array, digests: Array) -> Sketch:
    names, shapes = tuple(info.name for info in infos), tuple(info.shape for info in infos)
    return Sketch(names, shapes, projections, quantiles, moments, digests)


def _empty() -> tuple[Array, Array, Array, Array]:
    return np.zeros((0, WIDTH)), np.zeros((0, len(LEVELS))), np.zeros((0, 5)), np.zeros((0, 2), np.int64)


def _infos(checkpoint: Checkpoint) -> list[TensorInfo]:
    """The float tensors that have elements, tied ones once, by name: formats order them in their own ways."""
    found = (info for _, info in sorted(checkpoint.info.items()) if info.alias_of is None and info.numel)
    return [info for info in found if dtypes.dtype(info.dtype).kind in ("float", "quantized")]


def _row(tensor: Tensor, digest: bytes) -> tuple[Array, Array, Array, Array]:
    values = flat(tensor)
    if not np.isfinite(values).all():
        return np.zeros(WIDTH), np.zeros(len(LEVELS)), np.zeros(5), np.array([_number(digest), 0])
    magnitudes = np.sort(np.abs(values))
    present = magnitudes[np.searchsorted(magnitudes, 0.0, side="right") :]
    distinct = (1 + np.count_nonzero(np.diff(present))) / len(present) if len(present) else 1.0
    moments = np.array([np.dot(values, values), _kurtosis(values), 1 - len(present) / len(values), distinct, 1.0])
    return project(values), _at_levels(magnitudes), moments, np.array([_number(digest), _number(blake3(magnitudes.tobytes()).digest())])


def quantiles(values: Float[np.ndarray, " elements"]) -> Float[np.ndarray, " levels"]:
    """Quantiles of the absolute values of a row of numbers, as sketches keep them."""
    return _at_levels(np.sort(np.abs(values)))


def _at_levels(magnitudes: Array) -> Array:
    made: Array = magnitudes[(LEVELS * (len(magnitudes) - 1)).round().astype(np.int64)]
    return made


def flat(tensor: Tensor) -> Float[np.ndarray, " elements"]:
    """The elements of a tensor in float64, in a row."""
    made: Array = widened(tensor.detach()).double().cpu().reshape(-1).numpy()
    return made


def _number(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little", signed=True)


def _kurtosis(values: Array) -> float:
    centred = values - values.mean()
    squares = centred * centred
    spread = squares.mean()
    return float((squares * squares).mean() / spread**2) if spread > 0 else 0.0


def project(values: Float[np.ndarray, " elements"]) -> Float[np.ndarray, " cells"]:
    """Project a row of numbers; linear in them."""
    if len(values) <= WIDTH:
        return np.pad(values, (0, WIDTH - len(values)))
    cells, signs = _places(len(values))
    return np.bincount(cells, weights=values * signs, minlength=WIDTH).astype(np.float64)


@lru_cache(maxsize=32)
def _places(count: int) -> tuple[Array, Array]:
    """The cell and the sign of each place: SplitMix64 of its number."""
    with np.errstate(over="ignore"):
        mixed = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
    return (mixed % np.uint64(WIDTH)).astype(np.int64), np.where(mixed >> np.uint64(63), 1.0, -1.0)
