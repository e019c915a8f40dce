"""One layer decomposed: the base's singular vectors, those of the tuned matrix, and the change between the two."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weightspace.adapters import LowRank
from weightspace.analysis.intruders.counting import Overlap, overlap_of
from weightspace.analysis.intruders.null import Null, update_rank, update_values
from weightspace.analysis.intruders.pairing import Pairing
from weightspace.analysis.layers import Layer
from weightspace.errors import AnalysisError, one_line
from weightspace.linalg import Cache, Singular, singular_values, threads_for

GAP = 0.1
"""How far, as a part of its own, the base's singular values may lie from a tuned one to be the band that it may have been turned in."""


@dataclass(frozen=True)
class Definition:
    """What an intruder is taken to be.

    Attributes:
        k: how many vectors of a layer are looked at.
        epsilon: the similarity under which one is an intruder.
        side: whose vectors count, `left` or `right`.
        gap: see `GAP`.

    Raises:
        AnalysisError: a number out of range.
    """

    k: int = 10
    epsilon: float = 0.5
    side: str = "left"
    gap: float = GAP

    def __post_init__(self) -> None:
        if self.k < 1:
            raise AnalysisError(f"expected k of 1 or more singular vectors, found {self.k}; the paper looks at 10")
        if not 0 < self.epsilon <= 1:
            raise AnalysisError(f"expected an epsilon above 0 and up to 1, found {self.epsilon:g}; the paper has 0.5")
        if self.side not in ("left", "right"):
            raise AnalysisError(f"expected the side 'left' or 'right', found '{one_line(self.side, 40)}'; the paper counts left vectors")
        if not 0 <= self.gap < 1:
            raise AnalysisError(f"expected a relative gap of 0 or more and under 1, found {self.gap:g}; {GAP} is usual")


@dataclass(frozen=True, eq=False)
class Examined:
    """One layer's decompositions.

    Attributes:
        layer: which.
        before: the base's matrix.
        after: the tuned matrix; of a low-rank update None, since nothing needs it written out.
        update: an adapter's update; None where the change is no plain low-rank one.
        base: all triplets of the base.
        overlap: the first triplets of the tuned matrix, and how like the base's they are.
        definition: what an intruder is taken to be.
    """

    layer: Layer
    before: Tensor
    after: Tensor | None
    update: LowRank | None
    base: Singular
    overlap: Overlap
    definition: Definition

    @property
    def tuned(self) -> Tensor:
        """The tuned matrix, written out."""
        return self.after if self.after is not None else self.before + self.change

    @property
    def change(self) -> Tensor:
        """The tuned matrix minus the base's."""
        return self.update.matrix() if self.update is not None else self.tuned - self.before

    @property
    def update_norm(self) -> float:
        """Frobenius norm of the change."""
        return _norm(self.update if self.update is not None else self.change)

    def draws(self, null: Null, stored: str) -> Iterator[Overlap]:
        """Put random updates in the change's place.

        Args:
            null: how many, and like what.
            stored: the dtype that the tuned tensor is kept in, whose rounding is no rank.
        """
        if not null.draws or null.generator is None:
            return
        if self.update is not None:
            values = update_values(self.update)
        else:
            values = singular_values(self.change)
            values = values[: update_rank(values, self.tuned, stored)]
        for _ in range(null.draws):
            drawn = null.drawn(self.layer.size, values)
            moved = drawn if isinstance(drawn, Tensor) else replace(drawn, a=drawn.a.to(self.before), b=drawn.b.to(self.before))
            tuned = self.before + moved.to(self.before) if isinstance(moved, Tensor) else moved
            yield overlap_of(self.before, tuned, self.definition.k, epsilon=None, base_svd=self.base)


def each_examined(pairing: Pairing, definition: Definition, cache: Cache | None, skipped: dict[str, str]) -> Iterator[Examined]:
    """Decompose layer by layer; why a layer is not goes into `skipped`."""
    for layer in pairing.layers:
        with threads_for(min(layer.size)):
            seen = _examined(pairing, layer, definition, cache)
        if isinstance(seen, str):
            skipped[layer.name] = seen
        else:
            yield seen


def _examined(pairing: Pairing, layer: Layer, definition: Definition, cache: Cache | None) -> Examined | str:
    """One layer's decompositions, or why there are none."""
    before, update = pairing.before(layer), pairing.update(layer)
    if update is not None:
        update = replace(update, a=update.a.to(before.dtype), b=update.b.to(before.dtype))
    moved: LowRank | Tensor = update if update is not None else pairing.after(layer).to(before.dtype)
    for whose, tensors in (("base", (before,)), ("tuned model", (moved.a, moved.b) if isinstance(moved, LowRank) else (moved,))):
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            return f"NaN or infinities in the {whose}"
        if whose == "base" and not bool(before.any()):
            return "the base's matrix is zero, and has no singular vectors"
    if _norm(moved if isinstance(moved, LowRank) else moved - before) == 0:
        return "unchanged"
    if isinstance(moved, Tensor) and not bool(moved.any()):
        return "the tuned matrix is zero, and has no singular vectors"
    try:
        base = pairing.base_svd(layer, cache)
        overlap = overlap_of(before, moved, definition.k, epsilon=definition.epsilon, base_svd=base)
    except AnalysisError as error:  # LAPACK fails on it: all else was seen to above
        return str(error)
    return Examined(layer, before, moved if isinstance(moved, Tensor) else None, update, base, overlap, definition)


def _norm(change: LowRank | Tensor) -> float:
    """Frobenius norm; of a low-rank update from its factors: |B A|^2 = tr(B^T B A A^T)."""
    if isinstance(change, Tensor):
        return float(torch.linalg.vector_norm(change.double()))
    a, b = change.a.double(), change.b.double()
    return abs(change.scale) * float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt())
