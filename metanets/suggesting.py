"""Which networks to evaluate next: those whose vectors promise most, given what is known of the others."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import MetanetError

COMPONENTS = 16  # principal components of the vectors that the model sees
FEW = 4  # known values below which nothing is fitted, and networks far from each other are chosen


def suggest(
    vectors: Float[Tensor, "networks dim"],
    known: Float[Tensor, " networks"],
    count: int = 1,
    *,
    maximize: bool = True,
    allowed: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
) -> list[int]:
    """Choose networks to evaluate, the most promising first.

    A Gaussian process (squared exponential and noise, fitted by marginal likelihood) on the principal components of the vectors, and the
    expected improvement over the best known value (Jones et al. 1998, eq. 15); each choice after the first is made as if the ones before
    had turned out as predicted. While fewer than four values are known, the network farthest from all known ones is chosen.

    Args:
        vectors: of a metanet, or any others.
        known: the value of each network; NaN where it is not known. Infinite ones are known, but nothing is learned from them.
        count: how many to choose.
        maximize: whether large values are wanted.
        allowed: networks that may be chosen, of those not known; by default all.
        generator: source of chance for the very first choice.

    Raises:
        MetanetError: there are not so many to choose from, or a vector is not finite.
    """
    if not vectors.isfinite().all():
        raise MetanetError(f"{int((~vectors.isfinite()).any(1).sum())} of {len(vectors)} vectors are not finite; leave those networks out")
    place = [at for at in (range(len(known)) if allowed is None else allowed) if known[at].isnan()]
    if len(place) < count:
        raise MetanetError(
            f"{count} networks are to be chosen, but of only {len(place)} the value is not known; ask for fewer, or widen --where"
        )
    points = _components(vectors)
    values = known.double().numpy(force=True).copy() * (1 if maximize else -1)
    chosen: list[int] = []
    for _ in range(count):
        told = np.flatnonzero(np.isfinite(values))
        open_ = [at for at in place if at not in chosen]
        if len(told) == 0:
            best = open_[int(torch.randint(len(open_), (1,), generator=generator))]
            guess = 0.0
        elif len(told) < FEW or np.ptp(values[told]) == 0:
            apart = np.linalg.norm(points[open_][:, None] - points[told][None], axis=2).min(1)
            best, guess = open_[int(apart.argmax())], float(values[told].mean())
        else:
            best, guess = _improving(points, values, told, open_)
        chosen.append(best)
        values[best] = guess
    return chosen


def _improving(points: np.ndarray, values: np.ndarray, told: np.ndarray, open_: Sequence[int]) -> tuple[int, float]:
    """The network of the largest expected improvement, and what is predicted of it."""
    from scipy.stats import norm
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * RBF(1.0, (1e-2, 1e2)) + WhiteKernel(0.1, (1e-4, 1e1))
    with warnings.catch_warnings():  # a length at the end of its range is no matter of the user's
        warnings.simplefilter("ignore")
        process = GaussianProcessRegressor(kernel, normalize_y=True).fit(points[told], values[told])
        mean, deviation = process.predict(points[list(open_)], return_std=True)
    deviation = np.maximum(deviation, 1e-12)
    gain = (mean - values[told].max()) / deviation
    improvement = deviation * (gain * norm.cdf(gain) + norm.pdf(gain))
    at = int(improvement.argmax())
    return open_[at], float(mean[at])


def _components(vectors: Float[Tensor, "networks dim"]) -> np.ndarray:
    """Principal components of the vectors, the whole scaled so that the first has a deviation of one."""
    centred = vectors.double().cpu() - vectors.double().cpu().mean(0)
    u, s, _ = torch.linalg.svd(centred, full_matrices=False)
    kept = (u * s)[:, :COMPONENTS]
    points: np.ndarray = (kept / kept.std(0, correction=0).max().clamp_min(1e-12)).numpy()
    return points


__all__ = ["suggest"]
