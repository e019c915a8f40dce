"""The power law of a tail: its exponent by maximum likelihood, and the value it begins at by the distance of Kolmogorov and Smirnov."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy import ndarray

FEW = 20
"""Values below which the exponent is corrected for its bias, and tails are not cut shorter than `LEAST`."""

LEAST = 8
"""Values below which nothing is fitted."""

_PROBES = np.linspace(0, 1, 48, endpoint=False)


@dataclass(frozen=True)
class PowerLaw:
    """A density proportional to `x^-alpha` from `xmin` on.

    Attributes:
        alpha: the exponent.
        xmin: where the tail begins.
        n: values in the tail.
        distance: of Kolmogorov and Smirnov, between the tail and the law: 0 where they agree.
    """

    alpha: float
    xmin: float
    n: int
    distance: float

    @property
    def sigma(self) -> float:
        """The standard error of alpha, were `xmin` given and the values independent."""
        return float((self.alpha - 1) / np.sqrt(self.n))


def fit(values: Float64[ndarray, " values"]) -> PowerLaw | None:
    """Fit the tail of positive values, or say that there is none to fit: too few values, or all of one size.

    Clauset, Shalizi and Newman, "Power-law distributions in empirical data" (arXiv:0706.1062), equations 3.1 and 3.9:
    `alpha = 1 + n / sum ln(x / xmin)`; each value but the largest is tried as xmin, and the one with the least distance D is taken. As in the
    packages `powerlaw` and WeightWatcher (Martin et al., arXiv:2002.06716), D looks at the empirical distribution from below each value, and with fewer
    than `FEW` values n is n - 1 in the exponent, and tails have at least `LEAST` values.

    Args:
        values: in any order; what is not above zero is left out.

    Example:
        >>> fit(1 / np.arange(1, 1001) ** 0.5).alpha > 2.9  # quantiles of the law of exponent 3
        True
    """
    data = np.sort(values[values > 0])
    if len(data) < LEAST:
        return None
    logs = np.log(data / data[-1])
    few = len(data) < FEW
    counts = np.arange(len(data), 1, -1)
    sums = np.cumsum(logs[::-1])[:0:-1] - counts * logs[:-1]
    starts = np.flatnonzero((sums > 1e-12) & (counts >= (LEAST if few else 2)))
    if not len(starts):
        return None
    alphas = 1 + (counts[starts] - few) / sums[starts]
    at, distance = _nearest(logs, alphas, starts)
    return PowerLaw(float(alphas[at]), float(data[starts[at]]), int(counts[starts[at]]), distance)


def bootstrapped(values: Float64[ndarray, " values"], draws: int, generator: torch.Generator) -> Float64[ndarray, " draws"]:
    """Fit resampled values again and again, xmin anew each time: the exponents, those that could be fitted.

    Clauset, Shalizi and Newman (arXiv:0706.1062), section 4.1: as many values are drawn with replacement, of all that are above zero.

    Args:
        values: in any order.
        draws: how many times.
        generator: draws them.
    """
    data = values[values > 0]
    if len(data) < LEAST:
        return np.empty(0)
    chosen = torch.randint(len(data), (draws, len(data)), generator=generator, device=generator.device).cpu().numpy()
    fits = (fit(data[row]) for row in chosen)
    return np.array([one.alpha for one in fits if one is not None], np.float64)


def _nearest(
    logs: Float64[ndarray, " values"], alphas: Float64[ndarray, " starts"], starts: Int64[ndarray, " starts"]
) -> tuple[int, float]:
    """Which start has the least distance, and that distance.

    A distance is a maximum over the tail; over a few of its values it is a lower bound. Starts are tried in the order of that bound until no
    bound is below the least distance found, which mostly leaves a small part of them to compute.
    """
    counts = len(logs) - starts
    probes = (counts[:, None] * _PROBES).astype(np.int64)
    laws = -np.expm1((1 - alphas)[:, None] * (logs[starts[:, None] + probes] - logs[starts][:, None]))
    bounds = np.abs(laws - probes / counts[:, None]).max(1)
    best, where = np.inf, 0
    for at in np.argsort(bounds, kind="stable"):
        if bounds[at] > best:
            break
        tail = logs[starts[at] :]
        distance = np.abs(-np.expm1((1 - alphas[at]) * (tail - tail[0])) - np.arange(len(tail)) / len(tail)).max()
        if (distance, at) < (best, where):
            best, where = float(distance), int(at)
    return where, best
