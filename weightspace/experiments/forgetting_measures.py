"""What an update did to the spectra of its matrices: intruders, sizes, the same of random updates, and the update with one direction scaled.

Intruder dimensions by Shuttleworth et al., LoRA vs Full Fine-tuning: An Illusion of Equivalence (arXiv:2410.21228), section 3 and algorithm 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

K, EPSILON = 10, 0.5
ALIKE = 0.75  # the overlap of a neighbour that may stand for the base's vectors
LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
KINDS = ("intruder", "neighbour", "rest of the update", "whole update")
Matrices = Mapping[str, Tensor]


@dataclass(frozen=True)
class Base:
    """A matrix before, with its singular vectors u (m, k) and v (n, k)."""

    matrix: Tensor
    u: Tensor
    v: Tensor

    @classmethod
    def of(cls, matrix: Float[Tensor, "out dim"]) -> "Base":
        """Decompose it, in float64: nothing here is large."""
        u, _, v = torch.linalg.svd(matrix.double(), full_matrices=False)
        return cls(matrix.double(), u, v.mT)


Bases = Mapping[str, Base]


@dataclass(frozen=True)
class Change:
    """A matrix before, and its singular vectors and values after an update: u (m, k), s (k,), v (n, k)."""

    base: Base
    u: Tensor
    s: Tensor
    v: Tensor

    @classmethod
    def of(cls, base: Base, update: Float[Tensor, "out dim"]) -> "Change":
        """Decompose what the update makes of it."""
        u, s, v = torch.linalg.svd(base.matrix + update.to(base.matrix.dtype), full_matrices=False)
        return cls(base, u, s, v.mT)

    @property
    def left(self) -> Float[Tensor, " k"]:
        """Of each left vector after, the largest absolute cosine with one before."""
        return (self.base.u.mT @ self.u).abs().amax(0)

    @property
    def right(self) -> Float[Tensor, " k"]:
        """The same of right vectors."""
        return (self.base.v.mT @ self.v).abs().amax(0)

    @property
    def energy(self) -> Float[Tensor, " k"]:
        """Of each left vector after, the share that lies among the first 2 k vectors before: near 1 where near neighbours were only turned into each other."""
        among: Tensor = self.base.u[:, : 2 * K].mT @ self.u
        return among.square().sum(0)

    @property
    def intruders(self) -> list[int]:
        """Which of the first ten left vectors are intruders by the paper's definition."""
        return [at for at, overlap in enumerate(self.left[:K].tolist()) if overlap < EPSILON]


def counts(base: Bases, updates: Matrices) -> dict[str, float]:
    """Count intruders over all matrices by several definitions, and measure the update."""
    changes = {name: Change.of(base[name], update) for name, update in updates.items()}
    tops = torch.stack([torch.linalg.matrix_norm(update.double(), 2) for update in updates.values()])
    before = torch.stack([torch.linalg.matrix_norm(base[name].matrix, 2) for name in updates])

    def total(side: str, epsilon: float, k: int | None = K) -> float:
        return float(sum((getattr(change, side)[:k] < epsilon).sum() for change in changes.values()))

    beyond = [((change.left < EPSILON) & (change.energy < EPSILON))[:K].sum() for change in changes.values()]
    return {
        "intruders": total("left", 0.5),
        "eps .3": total("left", 0.3),
        "eps .7": total("left", 0.7),
        "all k": total("left", 0.5, None),
        "right": total("right", 0.5),
        "beyond 2k": float(sum(beyond)),
        "norm": float(torch.stack([update.double().norm() for update in updates.values()]).norm()),
        "top": float(tops.max()),
        "mean top": float(tops.mean()),
        "mean top / base": float((tops / before).mean()),
    }


def null_counts(base: Bases, updates: Matrices, generator: torch.Generator, draws: int) -> dict[str, float]:
    """Count intruders of random updates, the mean of some draws: as large in each matrix (`Gaussian`), and with the same singular values too (`turned`)."""
    found = {"Gaussian": 0, "turned": 0}
    for name, update in updates.items():
        single = Base(base[name].matrix.float(), base[name].u.float(), base[name].v.float())
        values = torch.linalg.svdvals(update)
        for _ in range(draws):
            noise = torch.randn(update.shape, generator=generator)
            u, v = (torch.linalg.qr(torch.randn(side, len(values), generator=generator)).Q for side in update.shape)
            found["Gaussian"] += len(Change.of(single, noise * update.norm() / noise.norm()).intruders)
            found["turned"] += len(Change.of(single, u * values @ v.mT).intruders)
    return {kind: count / draws for kind, count in found.items()}


def random_overlaps(rows: int, columns: int, generator: torch.Generator, draws: int = 20_000) -> Float[Tensor, " draws"]:
    """Largest absolute cosines of random unit vectors with `min(rows, columns)` orthonormal ones in `rows` dimensions."""
    drawn = torch.randn(draws, rows, generator=generator)
    # By symmetry the orthonormal ones may be the first axes.
    found: Tensor = drawn[:, : min(rows, columns)].abs().amax(1) / drawn.norm(dim=1)
    return found


def directions(base: Bases, updates: Matrices) -> dict[str, dict[str, Tensor]]:
    """What `scaled` scales, by kind, in each matrix that has an intruder.

    `intruder`: s u v^T of the first intruder, as the paper does. `neighbour`: of the vector nearest to it that is much like one of the
    base's. `rest of the update`: the update less its part along the intruder, as large as the intruder, or all of it if that is less.
    `whole update`: the update itself, likewise.
    """
    made: dict[str, dict[str, Tensor]] = {kind: {} for kind in KINDS}
    for name, update in updates.items():
        change = Change.of(base[name], update)
        if change.intruders:
            for kind in KINDS:
                made[kind][name] = _direction(change, update.double(), kind).float()
    return made


def _direction(change: Change, update: Tensor, kind: str) -> Tensor:
    first = change.intruders[0]
    if kind == "neighbour":
        known = [at for at in range(len(change.s)) if change.left[at] >= EPSILON]
        alike = [at for at in known if change.left[at] >= ALIKE]
        first = min(alike or known, key=lambda at: (abs(at - first), at))
    u, s, v = change.u[:, first], change.s[first], change.v[:, first]
    one = torch.outer(u, v)
    if kind in ("intruder", "neighbour"):
        return one * s
    rest: Tensor = update - one * (u @ update @ v) if kind == "rest of the update" else update
    found: Tensor = rest * (s / rest.norm()).clamp(max=1.0)
    return found


def scaled(updates: Matrices, along: Matrices, lam: float) -> dict[str, Tensor]:
    """Updates with one direction of each matrix scaled: dW + (lam - 1) D."""
    return {name: update + (lam - 1) * along[name] if name in along else update for name, update in updates.items()}
