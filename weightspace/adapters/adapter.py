"""An adapter: the low-rank updates, whole tensors and shifts that turn one model into another, read when asked for."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from weightspace.adapters.low_rank import LowRank
from weightspace.checkpoint import Checkpoint
from weightspace.dtypes import widened
from weightspace.errors import UnknownNameError

if TYPE_CHECKING:
    _Updates = Mapping[str, LowRank]
else:
    # Run-time type checkers look into a parametrised mapping, which would read an update at every call they check.
    _Updates = Mapping


@dataclass(frozen=True)
class Factors:
    """Where the two factors of one update lie in the adapter's file, and how they are to be read.

    Attributes:
        target: the tensor that is updated.
        module: the module that has it, as the file names it.
        a: name of the factor (rank, in) or (rank, in, kernel...).
        b: name of the factor (out, rank) or (out, rank, 1...).
        scale: what their product is multiplied by.
        shape: of the target.
        is_transposed: whether the target is (in, out).
        is_embedding: whether the target is an embedding, which is always (in, out).
        magnitude: name of the vector of norms, one for each `out`, of a DoRA.
        style: whose names the file has (see `weightspace.adapters.keys.Key`).
        component: the part of a pipeline that it belongs to (`unet`, `te1`, ...); empty where a file is of one model.
    """

    target: str
    module: str
    a: str
    b: str
    scale: float
    shape: tuple[int, ...]
    is_transposed: bool = False
    is_embedding: bool = False
    magnitude: str | None = None
    style: str = "peft"
    component: str = ""


@dataclass(frozen=True, eq=False)
class Adapter(_Updates):
    """The updates of an adapter by the name of the tensor that they update, each read from its file when asked for.

    Attributes:
        checkpoint: the file's tensors.
        factors: where each low-rank update lies, by target.
        whole: tensors that replace the base's: its name for each target.
        shifts: vectors added to a bias: name and scale for each target.
        left_out: tensors of the file that update no tensor (learned tokens); once fitted, updates of other parts of a pipeline too.
        keeps_ties: whether an update of a tied tensor moves all its names (PEFT's `ensure_weight_tying`).
    """

    checkpoint: Checkpoint
    factors: Mapping[str, Factors]
    whole: Mapping[str, str] = field(default_factory=dict)
    shifts: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    keeps_ties: bool = False

    def __getitem__(self, target: str) -> LowRank:
        """Read one update, in float32 or wider.

        Raises:
            UnknownNameError: the adapter has no low-rank update of this tensor.
        """
        if target not in self.factors:
            raise UnknownNameError.of("update of tensor", target, self.factors)
        factors = self.factors[target]
        a, b = widened(self.checkpoint[factors.a]).flatten(1), widened(self.checkpoint[factors.b]).flatten(1)
        magnitude = None if factors.magnitude is None else widened(self.checkpoint[factors.magnitude]).reshape(-1, 1)
        if factors.is_transposed:
            a, b, magnitude = b.T, a.T, None if magnitude is None else magnitude.T
        return LowRank(target, a, b, factors.scale, factors.shape, magnitude)

    def __iter__(self) -> Iterator[str]:
        return iter(self.factors)

    def __len__(self) -> int:
        return len(self.factors)

    def __repr__(self) -> str:
        ranks = sorted({self.checkpoint.info[one.a].shape[0] for one in self.factors.values()})
        rank = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}" if ranks else "no rank"
        return f"<Adapter: {len(self)} updates of {rank}, {len(self.whole)} whole tensors, {len(self.shifts)} shifts>"

    @property
    def targets(self) -> list[str]:
        """Every tensor that the adapter changes."""
        return list(dict.fromkeys((*self.factors, *self.whole, *self.shifts)))

    def fit_of(self, target: str) -> tuple[int, int]:
        """How many outputs and inputs (with the kernel) an update's factors have, from the header alone."""
        factors = self.factors[target]
        return self.checkpoint.info[factors.b].shape[0], math.prod(self.checkpoint.info[factors.a].shape[1:])
