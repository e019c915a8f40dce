"""One layer's singular vectors after tuning, each against all of its base's: which are new, and which were only turned in a flat band."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.analysis.intruders.counting import Overlap
from weightspace.linalg import Singular

Status = Literal["kept", "intruder", "degenerate"]

SHOWN = 64  # vectors whose similarities are kept for a picture


@dataclass(frozen=True)
class TunedVector:
    """One singular vector of a tuned matrix.

    Attributes:
        layer: the tensor.
        rank: its place among the tuned singular values, 1 for the largest.
        sigma: its singular value.
        left: `m_j = max_i |<u0_i, u_j>|`, of the left vector.
        right: the same of the right vector.
        nearest: rank of the base's vector that it is most like, on the side that was asked for.
        band: how many of the base's singular values lie within the relative gap of `sigma`.
        energy: `||U0[:, band]^T u_j||^2`: how much of it lies in the span of their vectors.
        gap: distance of `sigma` to its neighbours, as a part of the largest.
        is_determined: whether rounding in float32 cannot turn the verdict.
        status: `kept`: `m_j` is epsilon or more. `degenerate`: it is less, but as much of the vector (`energy` of epsilon squared, beyond
            what a random one has there) lies in the span of a band of the base, in which single vectors are chance. `intruder`: neither.
        p: how often a random update of the same norm and rank gives an `m_j` at this rank as small (add-one rule); None without a null.
    """

    layer: str
    rank: int
    sigma: float
    left: float
    right: float
    nearest: int
    band: int
    energy: float
    gap: float
    is_determined: bool
    status: Status
    p: float | None = None


@dataclass(frozen=True, eq=False)
class LayerIntruders:
    """What was found in one layer.

    Attributes:
        name: the tensor.
        rows: outputs.
        columns: inputs, times the cells of a kernel.
        vectors: the k first singular vectors of the tuned matrix.
        similarity: `|<u_j, u0_i>|`, a row a tuned vector (the first 64 at most), on the side that was asked for.
        right: intruders by right vectors.
        left: intruders by left vectors.
        update_norm: Frobenius norm of the change.
        base_norm: Frobenius norm of the base's matrix.
        method: how the tuned triplets were obtained (see `Singular`).
        null: intruders that each random update gave.
        notes: what is to be known of the numbers.
    """

    name: str
    rows: int
    columns: int
    vectors: tuple[TunedVector, ...]
    similarity: Float[Tensor, "shown width"]
    left: int
    right: int
    update_norm: float
    base_norm: float
    method: str = "exact"
    null: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def intruders(self) -> list[TunedVector]:
        """All that the paper's definition takes for intruders."""
        return [one for one in self.vectors if one.status != "kept"]

    @property
    def count(self) -> int:
        """Intruders by the paper's definition."""
        return len(self.intruders)

    @property
    def guarded(self) -> int:
        """Intruders that no degenerate band of the base explains."""
        return sum(one.status == "intruder" for one in self.vectors)

    @property
    def p(self) -> float | None:
        """How often a random update gives as many intruders (add-one rule); None without a null."""
        return p_value(sum(one >= self.count for one in self.null), len(self.null))

    def row(self, side: str) -> dict[str, float | int | str | None]:
        """The layer as a row of a table."""
        top = next(iter(self.intruders), None)
        return {
            "layer": self.name,
            "rows": self.rows,
            "columns": self.columns,
            "count": self.count,
            "guarded": self.guarded,
            "left": self.left,
            "right": self.right,
            "smallest_similarity": min((getattr(one, side) for one in self.vectors), default=None),
            "update_norm": self.update_norm,
            "relative_update_norm": self.update_norm / self.base_norm,
            "top_intruder": None if top is None else top.rank,
            "top_intruder_sigma": None if top is None else top.sigma,
            "null_count": sum(self.null) / len(self.null) if self.null else None,
            "p": self.p,
            "notes": "; ".join(self.notes),
        }


def p_value(as_extreme: int, draws: int) -> float | None:
    """The share of draws that are as extreme as what was seen, which itself counts as one of them; None without draws."""
    return (1 + as_extreme) / (1 + draws) if draws else None


def vectors_of(name: str, base: Singular, overlap: Overlap, *, epsilon: float, side: str, gap: float) -> tuple[TunedVector, ...]:
    """Describe the tuned vectors of a layer that have a singular value; those of zeros are arbitrary, and left out.

    Args:
        name: of the layer.
        base: all triplets of the base.
        overlap: of the tuned matrix with it.
        epsilon: `m_j` under this is an intruder.
        side: whose vectors count.
        gap: how far, as a part of its own, the base's singular values may be from that of a vector to be its band.
    """
    top = overlap.tuned
    similarity, best = (overlap.left, overlap.best_left) if side == "left" else (overlap.right, overlap.best_right)
    inside = band_of(base.s, top.s, gap)
    energy = (inside * coordinates(base, top, side).square()).sum(0).clamp(max=1)
    explained = excess(energy, inside.sum(0), (base.u if side == "left" else base.v).shape[0]) >= epsilon**2
    determined = overlap.is_determined(epsilon, side="left" if side == "left" else "right")
    return tuple(
        TunedVector(
            layer=name,
            rank=at + 1,
            sigma=float(top.s[at]),
            left=float(overlap.left[at]),
            right=float(overlap.right[at]),
            nearest=int(best[at]) + 1,
            band=int(inside[:, at].sum()),
            energy=float(energy[at]),
            gap=float(overlap.gap[at]),
            is_determined=bool(determined[at]),
            status="kept" if similarity[at] >= epsilon else "degenerate" if explained[at] else "intruder",
        )
        for at in range(num_determined(top.s))
    )


def num_determined(values: Float[Tensor, " k"], dtype: torch.dtype | None = None) -> int:
    """How many singular values are more than what rounding makes of zeros: about an eps of the largest, measured; eight of them count.

    Args:
        values: of a matrix.
        dtype: what the matrix was computed in; by default that of the values.
    """
    return int((values > 8 * torch.finfo(dtype or values.dtype).eps * values.max()).sum()) if len(values) else 0


def coordinates(base: Singular, top: Singular, side: str) -> Float[Tensor, "width k"]:
    """Tuned vectors in the basis of the base's."""
    known = top.left if side == "left" else top.right
    if known is not None:
        return known
    return base.u.T @ top.u if side == "left" else base.v.T @ top.v


def band_of(base: Float[Tensor, " width"], tuned: Float[Tensor, " k"], gap: float) -> Bool[Tensor, "width k"]:
    """Which of the base's singular values lie within a relative distance of each tuned one."""
    return (base[:, None] - tuned).abs() <= gap * tuned


def excess(energy: Float[Tensor, " k"], band: Tensor, size: int) -> Float[Tensor, " k"]:
    """How much more of a vector lies in a band than of a random one, which has `band / size` there: 0 by chance, 1 if all of it does."""
    chance = (band / size).to(energy)
    return torch.where(chance < 1, (energy - chance) / (1 - chance).clamp(min=torch.finfo(energy.dtype).eps), 1.0)
