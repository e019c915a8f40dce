"""The law of Marchenko and Pastur: where the eigenvalues of a matrix of independent entries end, and which scale fits a spectrum best."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from weightspace.errors import UnknownNameError

Values = Float64[ndarray, " _"]

TRACY_WIDOM_99 = 2.0234
"""Quantile at .99 of the law of Tracy and Widom for real matrices; Johnstone (2001), table 1."""

_ANGLES = (np.arange(8192) + 0.5) * np.pi / 8192


@dataclass(frozen=True)
class MarchenkoPastur:
    """The eigenvalues of `W^T W` for a matrix of independent entries of standard deviation sigma, not divided by its rows.

    Marchenko and Pastur (1967): they lie between `sigma^2 (sqrt(n) - sqrt(m))^2` and `sigma^2 (sqrt(n) + sqrt(m))^2`.

    Attributes:
        sigma: of an entry.
        size: n and m, the longer and the shorter side.
    """

    sigma: float
    size: tuple[int, int]

    @property
    def low(self) -> float:
        """The lower edge."""
        return float(self.sigma**2 * (self.size[0] ** 0.5 - self.size[1] ** 0.5) ** 2)

    @property
    def edge(self) -> float:
        """The upper edge, beyond which there is nothing in the limit of large matrices."""
        return float(self.sigma**2 * (self.size[0] ** 0.5 + self.size[1] ** 0.5) ** 2)

    @property
    def threshold(self) -> float:
        """What the largest eigenvalue of one finite matrix of normal entries exceeds once in a hundred draws.

        Johnstone, "On the distribution of the largest eigenvalue in principal components analysis" (2001), theorem 1.1.
        """
        rows, columns = max(self.size[0] - 1, 1) ** 0.5, self.size[1] ** 0.5
        scale = (rows + columns) * (1 / rows + 1 / columns) ** (1 / 3)
        return float(self.sigma**2 * ((rows + columns) ** 2 + TRACY_WIDOM_99 * scale))

    def density(self, x: Values) -> Values:
        """Density at eigenvalues."""
        low, high = self.low, self.edge
        inside = np.clip((high - x) * (x - low), 0, None)
        return np.asarray(np.sqrt(inside) / (2 * np.pi * self.sigma**2 * self.size[1] * np.maximum(x, 1e-300)))


def by_median(eigenvalues: Values, size: tuple[int, int]) -> MarchenkoPastur:
    """Fit sigma by the median, which few large eigenvalues do not move.

    Gavish and Donoho, "The optimal hard threshold for singular values is 4/sqrt(3)" (arXiv:1305.5870), equation 13.

    Args:
        eigenvalues: of one matrix or of several of one size.
        size: the longer and the shorter side.
    """
    longer, shorter = size
    return MarchenkoPastur(float(np.sqrt(np.median(eigenvalues) / (longer * _median(shorter / longer)))), size)


def by_variance(eigenvalues: Values, size: tuple[int, int]) -> MarchenkoPastur:
    """Take the root mean square of all entries for sigma, as if nothing had been learnt."""
    return MarchenkoPastur(float(np.sqrt(eigenvalues.mean() / size[0])), size)


def by_density(eigenvalues: Values, size: tuple[int, int]) -> MarchenkoPastur:
    """Fit sigma by least squares to the smoothed density, as WeightWatcher 0.7.7 does.

    Eigenvalues are scaled to a mean of one and smoothed by a triangle of half-width 0.1; places where the density is below .01 are left out. Square matrices are
    fitted by the singular values' quarter circle. There WeightWatcher leaves sigma out of the circle's radius; this does not.

    Args:
        eigenvalues: of one matrix or of several of one size.
        size: the longer and the shorter side.
    """
    from scipy import optimize

    scaled = eigenvalues / eigenvalues.mean()
    is_square = size[0] == size[1]
    points, smooth = _smoothed(np.sqrt(scaled) if is_square else scaled)
    law = _quarter_circle if is_square else functools.partial(_shape, ratio=size[1] / size[0])
    widest = np.sqrt(scaled.max()) / (1 + np.sqrt(size[1] / size[0]))
    grid = (slice(0.05 * widest, 2.0 * widest, 0.01 * widest),)
    found = optimize.brute(lambda sigma: _misfit(law, points, smooth, float(np.ravel(sigma)[0])), grid)
    return MarchenkoPastur(float(np.ravel(found)[0] * np.sqrt(eigenvalues.mean() / size[0])), size)


_FITS = {"median": by_median, "variance": by_variance, "density": by_density}


def fitted(eigenvalues: Values, size: tuple[int, int], fit: str) -> MarchenkoPastur:
    """Fit sigma by one of `median`, `variance` and `density`.

    Raises:
        UnknownNameError: there is no such way.
    """
    if fit not in _FITS:
        raise UnknownNameError.of("fit of the noise", fit, _FITS)
    return _FITS[fit](eigenvalues, size)


@functools.lru_cache(maxsize=256)
def _median(ratio: float) -> float:
    """The median of the law for sigma 1 and columns/rows `ratio`, eigenvalues divided by the number of rows."""
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    half = (high - low) / 2
    x = (high + low) / 2 - half * np.cos(_ANGLES)
    mass = np.cumsum(np.sin(_ANGLES) ** 2 / x)  # the density, by the angle
    return float(np.interp(mass[-1] / 2, mass, x))


def _smoothed(values: Values, width: float = 0.1, least: float = 0.01) -> tuple[Values, Values]:
    """Where the density of values is at least `least`, and how large it is there."""
    points = np.linspace(0, values.max() + 0.5, 1000)
    ordered = np.sort(values)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    left, middle, right = (np.searchsorted(ordered, points + shift) for shift in (-width, 0, width))
    below = (middle - left) * (width - points) + sums[middle] - sums[left]
    above = (right - middle) * (width + points) - sums[right] + sums[middle]
    density = (below + above) / (width**2 * len(values))
    kept = density > least
    return points[kept], density[kept]


def _shape(x: Values, sigma: float, ratio: float) -> tuple[Values, float, float]:
    low, high = sigma**2 * (1 - np.sqrt(ratio)) ** 2, sigma**2 * (1 + np.sqrt(ratio)) ** 2
    inside = np.clip((high - x) * (x - low), 0, None)
    return np.sqrt(inside) / (2 * np.pi * sigma**2 * ratio * np.maximum(x, 1e-12)), low, high


def _quarter_circle(x: Values, sigma: float) -> tuple[Values, float, float]:
    return np.sqrt(np.clip(4 * sigma**2 - x**2, 0, None)) / (np.pi * sigma**2), 0.0, 2 * sigma


def _misfit(law: Callable[..., tuple[Values, float, float]], points: Values, smooth: Values, sigma: float) -> float:
    """The sum of squared differences; a law whose edges leave the peak outside is no candidate."""
    if sigma <= 0:
        return np.inf
    fitted, low, high = law(points, sigma)
    peak = points[smooth.argmax()]
    if high < peak or low > peak or high > points.max():
        return 1e6 * len(points)
    return float(((fitted - smooth) ** 2).sum())
