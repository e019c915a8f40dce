"""How well the singular vectors of a tuned matrix are found again among those of its base, and how far rounding may turn that."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightspace.adapters.low_rank import LowRank
from weightspace.errors import AnalysisError
from weightspace.linalg import Singular, svd, top_singular, updated

# What a float32 decomposition is off by, as a part of the largest value. Its backward error was about 1e-7 on all matrices tried: ten times that.
_NOISE = 8 * torch.finfo(torch.float32).eps
_BAND = 10 * _NOISE  # vectors of values closer than this are any basis of their span
_CANDIDATES = 8


@dataclass(frozen=True, eq=False)
class Overlap:
    """The top k singular vectors of a tuned matrix against all of its base's: `m_j = max_i |<u0_i, u_j>|`.

    Shuttleworth et al., LoRA vs full fine-tuning: an illusion of equivalence (arXiv:2410.21228), algorithm 1.

    Attributes:
        left: m_j of the left vectors, those of the paper.
        right: m_j of the right vectors.
        best_left: index of the base's left vector that each is most like.
        best_right: index of the base's right vector.
        tuned: the top k triplets of the tuned matrix with their coordinates among the base's, and how they were obtained.
        gap: distance of each of their values to its nearest neighbour, as a part of the largest.
        low_left: the least m_j that a decomposition in float32 may give.
        high_left: the largest.
        low_right: the least m_j of a right vector.
        high_right: the largest.
    """

    left: Float[Tensor, " k"]
    right: Float[Tensor, " k"]
    best_left: Int[Tensor, " k"]
    best_right: Int[Tensor, " k"]
    tuned: Singular
    gap: Float[Tensor, " k"]
    low_left: Float[Tensor, " k"]
    high_left: Float[Tensor, " k"]
    low_right: Float[Tensor, " k"]
    high_right: Float[Tensor, " k"]

    def intruders(self, epsilon: float = 0.5, *, side: Literal["left", "right"] = "left") -> Bool[Tensor, " k"]:
        """Which of the k are intruders: `m_j < epsilon`."""
        return (self.left if side == "left" else self.right) < epsilon

    def count(self, epsilon: float = 0.5, *, side: Literal["left", "right"] = "left") -> int:
        """How many of the k are intruders."""
        return int(self.intruders(epsilon, side=side).sum())

    def margins(self, epsilon: float = 0.5, *, side: Literal["left", "right"] = "left") -> Float[Tensor, " k"]:
        """How far each m_j is from the threshold."""
        return ((self.left if side == "left" else self.right) - epsilon).abs()

    def is_determined(self, epsilon: float = 0.5, *, side: Literal["left", "right"] = "left") -> Bool[Tensor, " k"]:
        """Which verdicts rounding in float32 cannot turn: not at the threshold, and not of vectors that are any basis of a band."""
        low, high = (self.low_left, self.high_left) if side == "left" else (self.low_right, self.high_right)
        return (low >= epsilon) | (high < epsilon)


def overlap_of(
    base: Float[Tensor, "rows columns"],
    tuned: Float[Tensor, "_ _"] | LowRank,
    k: int = 10,
    *,
    epsilon: float | None = 0.5,
    base_svd: Singular | None = None,
) -> Overlap:
    """Compare the top k singular vectors of a tuned matrix with all of its base's.

    Of a low-rank update, nothing is done with the whole matrix once the base is decomposed (`updated`); else the top k are searched for
    (`top_singular`), and multiplied with the base's. Where rounding could turn a verdict at epsilon, on either side, the tuned matrix is decomposed in
    full, as the paper's code does it, so that its count is given even where it is chance; `is_determined` still tells.

    Args:
        base: the matrix before, of no NaN and no infinities.
        tuned: the matrix after, or the update of an adapter.
        k: how many vectors; all where there are fewer.
        epsilon: the threshold at which verdicts are wanted; None leaves them as they were found first.
        base_svd: `svd(base)`, where it is at hand.

    Raises:
        AnalysisError: shapes that differ, NaN or infinities, k under 1.

    Example:
        >>> base = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
        >>> overlap_of(base, base + 9 * torch.full((3, 3), 1 / 3), k=1).left
        tensor([0.6410])
    """
    shape = tuple(tuned.shape) if isinstance(tuned, Tensor) else (tuned.rows, tuned.columns)
    if shape != tuple(base.shape):
        raise AnalysisError(
            f"expected a tuned matrix of shape {tuple(base.shape)} as its base has, found {shape}; check that one came of the other"
        )
    known = svd(base) if base_svd is None else base_svd
    if isinstance(tuned, LowRank) and tuned.magnitude is None:
        found = _compared(known, updated(known, tuned, k))
    else:
        found = _compared(known, top_singular(_written(base, tuned), k))
    if epsilon is None or all(bool(found.is_determined(epsilon, side=side).all()) for side in ("left", "right")):
        return found
    return _compared(known, svd(_written(base, tuned)).first(k))


def _written(base: Tensor, tuned: Tensor | LowRank) -> Tensor:
    return tuned if isinstance(tuned, Tensor) else tuned.applied_to(base)


def _compared(base: Singular, top: Singular) -> Overlap:
    if top.left is None or top.right is None:
        top = replace(top, left=(top.u.T.to(base.u.dtype) @ base.u).T, right=(top.v.T.to(base.v.dtype) @ base.v).T)
    assert top.left is not None and top.right is not None
    left, right = top.left.abs().max(dim=0), top.right.abs().max(dim=0)
    gaps = top.gaps
    turned = ((_NOISE + top.residual) / gaps.double()).clamp(max=1)
    low_left, high_left = _bounds(top.left, base.s, turned)
    low_right, high_right = _bounds(top.right, base.s, turned)
    return Overlap(left.values, right.values, left.indices, right.indices, top, gaps, low_left, high_left, low_right, high_right)


def _bounds(coordinates: Tensor, values: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the largest m_j that float32 decompositions of base and tuned matrix may give.

    To first order, rounding by E turns a vector i towards another, l, by E_il / (s_i - s_l). Inside a band of values that are closer than that makes
    sense for, vectors are any basis of the band's span: one may hold all that the span has of a tuned vector, or they may share it evenly.

    Args:
        coordinates: of the tuned vectors, a column each, among the base's.
        values: of the base, descending.
        turned: how far each tuned vector may be turned, as a sine.
    """
    energy, spectrum = coordinates.double().square(), -values.double()
    largest = -spectrum[0]
    first = torch.searchsorted(spectrum, spectrum - _BAND * largest)
    last = torch.searchsorted(spectrum, spectrum + _BAND * largest, right=True)
    sums = torch.cat([torch.zeros_like(energy[:1]), energy.cumsum(dim=0)])
    band = (sums[last] - sums[first]).clamp(0, 1)
    # Only the likest vectors are looked at for how far they are turned: others are too far from m_j for that to matter.
    likest = energy.topk(min(_CANDIDATES, len(energy)), dim=0).indices
    distances = spectrum[likest][:, :, None] - spectrum
    is_near = distances.abs() <= _BAND * largest
    shares = torch.where(is_near, 0.0, energy.T / torch.where(is_near, 1.0, distances).square())
    spread = _NOISE * largest * shares.sum(dim=-1).sqrt()
    whole, even = band.gather(0, likest).sqrt(), (band / (last - first)[:, None]).gather(0, likest).sqrt()
    beside = turned * (1 - energy.max(dim=0).values).clamp(min=0).sqrt() + turned.square()
    low = (even - spread).max(dim=0).values - beside
    high = torch.maximum((whole + spread).max(dim=0).values, band.max(dim=0).values.sqrt()) + beside
    is_chance = turned > 0.1
    low, high = low - 4 * _NOISE, high + 4 * _NOISE  # what scalar products of vectors that are orthonormal but for rounding are off by
    return torch.where(is_chance, 0.0, low.clamp(min=0)), torch.where(is_chance, 1.0, high)
