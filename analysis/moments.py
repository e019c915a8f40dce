"""Second moments of two representations of the same samples, gathered in parts, and the linear similarities that follow from them.

Samples may come in parts, and memory grows with units alone. Everything is in float64. What a measure does not define is NaN: activations
that do not vary, and too few samples.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import AnalysisError, UnknownNameError

Samples = Float[Tensor, "_ _"]
"""Activations, (samples, units); that two have the same samples is said when they do not."""

TOLERANCE = 1e-10  # of the largest variance: directions below it are rounding, since sums of squares hold half the digits
DEAD = 1e-12  # of the largest variance: below it a unit responds to nothing
BLOCK = 512  # units at once, where products are of one representation with itself
KEPT = 0.99  # of the variance, by SVCCA

CCA = ("mean", "squared", "svcca", "pwcca")


class Sums:
    """Sums over samples of two representations, from which HSIC and second moments follow.

    Values are summed around the first sample, so that activations that do not vary are exactly zero and large means cost no digits.
    """

    def __init__(self) -> None:
        """Begin with no samples."""
        self.count = 0

    def add(self, x: Samples, y: Samples) -> None:
        """Take in some more samples of both, in the same order.

        Raises:
            AnalysisError: not as many samples or units as before or beside, or values that are not finite.
        """
        expect_paired(x, y)
        if not len(x):
            return
        if not self.count:
            self._origin = x[0].double(), y[0].double()
            self._x, self._y = torch.zeros_like(self._origin[0]), torch.zeros_like(self._origin[1])
            self._x_by_y2, self._y_by_x2 = self._x.clone(), self._y.clone()
            self._cross = torch.outer(self._x, self._y)
            self._x2 = self._y2 = self._x2_y2 = self._x.new_zeros(())
        if (x.shape[1], y.shape[1]) != tuple(self._cross.shape):
            raise AnalysisError(
                f"expected {self._cross.shape[0]} and {self._cross.shape[1]} units as before, found {x.shape[1]} and {y.shape[1]}; "
                "give all samples of the same layers"
            )
        is_own = x is y
        x = x.double() - self._origin[0]
        y = x if is_own else y.double() - self._origin[1]
        x2, y2 = x.square().sum(1), y.square().sum(1)
        self.count += len(x)
        self._x, self._y = self._x + x.sum(0), self._y + y.sum(0)
        _add_products(self._cross, x, y)
        self._x2, self._y2, self._x2_y2 = self._x2 + x2.sum(), self._y2 + y2.sum(), self._x2_y2 + x2 @ y2
        self._x_by_y2, self._y_by_x2 = self._x_by_y2 + y2 @ x, self._y_by_x2 + x2 @ y

    @property
    def cross(self) -> Float[Tensor, "units others"]:
        """The sum of products of deviations from the means."""
        if not self.count:
            raise AnalysisError("expected samples, found none; add activations first")
        return self._cross - torch.outer(self._x, self._y) / self.count

    @property
    def means(self) -> tuple[Float[Tensor, " units"], Float[Tensor, " others"]]:
        """Of both representations."""
        return self._origin[0] + self._x / self.count, self._origin[1] + self._y / self.count

    @property
    def hsic(self) -> float:
        """`tr(K H L H)` of the linear kernels: the biased HSIC times (samples - 1)^2."""
        return float(self.cross.square().sum())

    @property
    def unbiased_hsic(self) -> float:
        """The unbiased HSIC of the linear kernels (Song et al., JMLR 2012, equation 5); NaN for fewer than four samples.

        `tr(K L)`, `1'K 1`, `1'L 1` and `1'K L 1`, with zero diagonals of K and L, are sums over samples of products of at most four.
        """
        n = self.count
        if n < 4:
            return math.nan
        trace = self._cross.square().sum() - self._x2_y2
        totals = (self._x @ self._x - self._x2) * (self._y @ self._y - self._y2)
        rows = self._x @ self._cross @ self._y - self._x_by_y2 @ self._x - self._y_by_x2 @ self._y + self._x2_y2
        return float((trace + totals / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)) / (n * (n - 3)))


class Moments:
    """Second moments of two representations of the same samples, gathered in parts.

    Example:
        >>> moments = Moments()
        >>> for part in torch.randn(4, 25, 3, generator=torch.Generator().manual_seed(0)):
        ...     moments.add(part, 2 * part)
        >>> moments.cka(), moments.procrustes()
        (1.0, 0.0)
    """

    def __init__(self, x: Sums | None = None, y: Sums | None = None, between: Sums | None = None) -> None:
        """Begin with no samples, or with what has been summed already.

        Args:
            x: of the first representation with itself.
            y: of the second with itself.
            between: of the first with the second.
        """
        self.x, self.y, self.between = x or Sums(), y or Sums(), between or Sums()

    def add(self, x: Samples, y: Samples) -> None:
        """Take in some more samples of both, in the same order."""
        self.between.add(x, y)
        self.x.add(x, x)
        self.y.add(y, y)

    @property
    def count(self) -> int:
        """Samples so far."""
        return self.between.count

    @property
    def undefined(self) -> str:
        """Why a similarity of these samples may be NaN, in words; it is one of these reasons, the first that holds."""
        if not self.count:
            return "no common samples"
        still = [which for which, sums in (("first", self.x), ("second", self.y)) if not sums.cross.trace() > 0]
        if still:
            return f"the {still[0]} does not vary"
        taken, given = self.between.cross.shape
        return f"too few samples ({self.count:,}) for {taken} and {given} units"

    @property
    def varying(self) -> int:
        """How many units of both vary."""
        return sum(int((~variances(sums.cross).isnan()).sum()) for sums in (self.x, self.y))

    def cka(self, *, debiased: bool = False) -> float:
        """Linear CKA; see `linear_cka`."""
        if debiased:
            return aligned(self.between.unbiased_hsic, self.x.unbiased_hsic, self.y.unbiased_hsic)
        return aligned(self.between.hsic, self.x.hsic, self.y.hsic)

    def correlations(self) -> Float[Tensor, " units others"]:
        """Pearson correlations of each unit of the first with each of the second; NaN for units that do not vary."""
        x, y = (variances(sums.cross) for sums in (self.x, self.y))
        return (self.between.cross * x.rsqrt()[:, None] * y.rsqrt()).clamp(-1, 1)

    def canonical_correlations(self, kept: float = 1.0) -> Float[Tensor, " directions"]:
        """Canonical correlations, largest first; see `cca`."""
        return self._canonical(kept)[0]

    def cca(self, variant: str = "mean") -> float:
        """One number from the canonical correlations; see `cca`."""
        if variant not in CCA:
            raise UnknownNameError.of("variant of CCA", variant, CCA)
        values, weights = self._canonical(KEPT if variant == "svcca" else 1.0)
        if not len(values):
            return math.nan
        if variant == "pwcca":
            return float((weights * values).sum() / weights.sum())
        return float((values.square() if variant == "squared" else values).mean())

    def procrustes(self, *, angular: bool = False) -> float:
        """The Procrustes distance of the normalised representations; see `procrustes`."""
        norm = (self.x.cross.trace() * self.y.cross.trace()).sqrt()
        if not norm > 0:
            return math.nan
        overlap = min(float(torch.linalg.svdvals(self.between.cross).sum() / norm), 1.0)
        # What rounding leaves of two equal representations is no distance: an arc has half the digits of its cosine.
        overlap = 1.0 if 1 - overlap < 1e-14 * math.sqrt(min(self.between.cross.shape) + 1) else overlap
        return math.acos(overlap) if angular else math.sqrt(2 - 2 * overlap)

    def explained(self) -> float:
        """The share of the second's variance that is linear in the first; see `linear_regression`."""
        _, whiten = _whitened(self.x.cross, 1.0)
        total = self.y.cross.trace()
        if not whiten.shape[1] or not total > 0 or whiten.shape[1] >= self.count - 1:
            return math.nan
        return min(float((whiten.T @ self.between.cross).square().sum() / total), 1.0)

    def orthogonal_error(self) -> float:
        """The squared error of the best rotation, as a share of the second's variance; see `orthogonal_error`."""
        x, y = self.x.cross.trace(), self.y.cross.trace()
        if not (x > 0 and y > 0):
            return math.nan
        return max(float((x + y - 2 * torch.linalg.svdvals(self.between.cross).sum()) / y), 0.0)

    def l2(self) -> float:
        """`|X - Y| / |Y|`, unit by unit, nothing moved, |Y| around its mean; NaN for other widths and where the second does not vary."""
        taken, given = self.between.cross.shape
        total = self.y.cross.trace()
        if taken != given or not total > 0:
            return math.nan
        apart = self.between.means[0] - self.between.means[1]
        spread = self.x.cross.trace() + total - 2 * self.between.cross.trace()
        return math.sqrt(max(float((spread + self.count * apart.square().sum()) / total), 0.0))

    def correlation(self) -> float:
        """The mean correlation of units of one place, of those that vary in both; NaN for other widths, and where there are none."""
        found = self.correlations()
        return float(found.diag().nanmean()) if found.shape[0] == found.shape[1] else math.nan

    def _canonical(self, kept: float) -> tuple[Tensor, Tensor]:
        """The correlations, and for each the sum over the first's units of how they project on it (PWCCA's weights)."""
        (left, whiten), (right, whiten_right) = (_whitened(sums.cross, kept) for sums in (self.x, self.y))
        if not left.shape[1] or not right.shape[1] or left.shape[1] + right.shape[1] > self.count - 1:
            return left.new_zeros(0), left.new_zeros(0)
        u, s, _ = torch.linalg.svd((whiten.T @ self.between.cross) @ whiten_right, full_matrices=False)
        return s.clamp(0, 1), (left @ u).abs().sum(0)


def _add_products(total: Tensor, x: Tensor, y: Tensor) -> None:
    """Add `x.T @ y` in place, for it is the one thing here that is large; of one with itself little more than half is computed."""
    if x is not y:
        total.addmm_(x.T, y)
        return
    for start in range(0, x.shape[1], BLOCK):
        rows, rest, behind = slice(start, start + BLOCK), slice(start, None), slice(start + BLOCK, None)
        total[rows, rest].addmm_(x[:, rows].T, x[:, rest])
        total[behind, rows] = total[rows, behind].T


def variances(cross: Tensor) -> Tensor:
    """The diagonal of second moments, NaN for units that respond to nothing."""
    diagonal = cross.diag()
    return torch.where(diagonal > DEAD * diagonal.max(), diagonal, torch.nan)


def _whitened(cross: Tensor, kept: float) -> tuple[Tensor, Tensor]:
    """Principal directions that hold a share of the variance: the square root of the second moments, and its inverse, in their coordinates."""
    values, vectors = torch.linalg.eigh(cross)
    values, vectors = values.flip(0), vectors.flip(1)
    held = (values > TOLERANCE * values[0].clamp(min=0)) & (values > 0)
    if kept < 1 and bool(held.any()):
        before = torch.cumsum(torch.where(held, values, 0.0), 0) - values
        held = held & (before < kept * torch.where(held, values, 0.0).sum())
    roots = values[held].sqrt()
    return vectors[:, held] * roots, vectors[:, held] / roots


def aligned(between: float, x: float, y: float) -> float:
    """`between / sqrt(x y)`, at most 1: HSICs as an alignment; NaN where one of the two has none."""
    return min(between / math.sqrt(x * y), 1.0) if x > 0 and y > 0 else math.nan


def expect_paired(x: Tensor, y: Tensor) -> None:
    """See that two representations are of the same samples, and finite.

    Raises:
        AnalysisError: they are not.
    """
    if len(x) != len(y):
        raise AnalysisError(
            f"expected activations of the same samples, found {len(x)} and {len(y)} of them; run both networks on one data set"
        )
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise AnalysisError("expected finite activations, found NaN or infinite ones; look at the network that gives them")


__all__ = ["CCA", "Moments", "Samples", "Sums", "aligned", "expect_paired", "variances"]
