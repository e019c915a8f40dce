"""Similarity of two representations of the same samples: CKA, canonical correlations and Procrustes distances of activation matrices.

All linear ones are functions of sums over samples, so samples may come in parts (`Moments`) and memory grows with units alone.
Everything is in float64. What a measure does not define is NaN: activations that do not vary, and too few samples.
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
        _expect_paired(x, y)
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
        x, y = x.double() - self._origin[0], y.double() - self._origin[1]
        x2, y2 = x.square().sum(1), y.square().sum(1)
        self.count += len(x)
        self._x, self._y = self._x + x.sum(0), self._y + y.sum(0)
        self._cross = self._cross + x.T @ y
        self._x2, self._y2, self._x2_y2 = self._x2 + x2.sum(), self._y2 + y2.sum(), self._x2_y2 + x2 @ y2
        self._x_by_y2, self._y_by_x2 = self._x_by_y2 + y2 @ x, self._y_by_x2 + x2 @ y

    @property
    def cross(self) -> Float[Tensor, "units others"]:
        """The sum of products of deviations from the means."""
        if not self.count:
            raise AnalysisError("expected samples, found none; add activations first")
        return self._cross - torch.outer(self._x, self._y) / self.count

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
    def varying(self) -> int:
        """How many units of both vary."""
        return sum(int((~variances(sums.cross).isnan()).sum()) for sums in (self.x, self.y))

    def cka(self, *, debiased: bool = False) -> float:
        """Linear CKA; see `linear_cka`."""
        if debiased:
            return _aligned(self.between.unbiased_hsic, self.x.unbiased_hsic, self.y.unbiased_hsic)
        return _aligned(self.between.hsic, self.x.hsic, self.y.hsic)

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

    def _canonical(self, kept: float) -> tuple[Tensor, Tensor]:
        """The correlations, and for each the sum over the first's units of how they project on it (PWCCA's weights)."""
        (left, whiten), (right, whiten_right) = (_whitened(sums.cross, kept) for sums in (self.x, self.y))
        if not left.shape[1] or not right.shape[1] or left.shape[1] + right.shape[1] > self.count - 1:
            return left.new_zeros(0), left.new_zeros(0)
        u, s, _ = torch.linalg.svd((whiten.T @ self.between.cross) @ whiten_right, full_matrices=False)
        return s.clamp(0, 1), (left @ u).abs().sum(0)


def linear_cka(x: Samples, y: Samples, *, debiased: bool = False) -> float:
    """Centred kernel alignment with linear kernels: `|Y'X|^2 / (|X'X| |Y'Y|)` with centred columns.

    Kornblith et al., Similarity of Neural Network Representations Revisited (arXiv:1905.00414), equation 4; unchanged by orthogonal maps of the
    units and by one scale. With few samples it is far above zero for unrelated representations; `debiased` takes the unbiased HSIC in all
    three places (Nguyen et al., arXiv:2010.15327, equation 3), which may fall below zero.

    Args:
        x: activations of one layer.
        y: of another, for the same samples.
        debiased: by the unbiased HSIC, from four samples.

    Returns:
        0 to 1, or about -1 to 1 debiased; NaN where one does not vary, or for fewer than two (four) samples.

    Raises:
        AnalysisError: not as many samples in both, or values that are not finite.

    Example:
        >>> x = torch.eye(6)[:, :3]
        >>> round(linear_cka(x, 5 * x.flip(1)), 9)
        1.0
    """
    _expect_paired(x, y)
    if len(x) < max(x.shape[1], y.shape[1]):  # kernels are smaller than second moments
        one, two = (_deviations(values) for values in (x, y))
        return _kernel_cka(one @ one.T, two @ two.T, debiased=debiased)
    return _moments(x, y).cka(debiased=debiased)


def kernel_cka(x: Samples, y: Samples, *, bandwidth: float = 0.5, debiased: bool = False) -> float:
    """Centred kernel alignment with Gaussian kernels `exp(-d^2 / 2 s^2)`, in memory of samples squared.

    Args:
        x: activations of one layer.
        y: of another, for the same samples.
        bandwidth: s as a fraction of the median distance between two samples (Kornblith et al., section 4), which one scale does not change.
        debiased: see `linear_cka`.

    Returns:
        As `linear_cka`; NaN also where most pairs of samples are at one point.

    Raises:
        AnalysisError: see `linear_cka`; or a bandwidth that is not positive.
    """
    _expect_paired(x, y)
    if not bandwidth > 0:
        raise AnalysisError(f"expected a bandwidth above 0, found {bandwidth}; give a fraction of the median distance, such as 0.5")
    return _kernel_cka(*(_gaussian(_deviations(values), bandwidth) for values in (x, y)), debiased=debiased)


def cca(x: Samples, y: Samples, variant: str = "mean") -> float:
    """Mean canonical correlation, unchanged by every invertible linear map of the units (but for the variants that weigh or drop directions).

    Args:
        x: activations of one layer.
        y: of another, for the same samples.
        variant: `mean` of the correlations or of their squares (`squared`); `svcca` the mean over the directions that hold 99 % of each variance
            (Raghu et al., arXiv:1706.05806); `pwcca` weighted by how much of x each explains, so not symmetric (Morcos et al., arXiv:1806.05759).

    Returns:
        0 to 1; NaN where the ranks of both together exceed samples - 1: then some correlations are 1 whatever the values are.

    Raises:
        AnalysisError: see `linear_cka`.
        UnknownNameError: no such variant.
    """
    _expect_paired(x, y)
    return _moments(x, y).cca(variant)


def procrustes(x: Samples, y: Samples, *, angular: bool = False) -> float:
    """Distance of two representations after the best rotation or reflection of the units, each centred and of norm 1.

    `sqrt(2 - 2 |X'Y|_*)`, or the angle `arccos |X'Y|_*`: metrics on shapes (Williams et al., arXiv:2110.14739). The narrower one is padded with zeros.

    Args:
        x: activations of one layer.
        y: of another, for the same samples.
        angular: the angle, 0 to pi / 2, instead of the distance, 0 to sqrt 2.

    Returns:
        The distance; NaN where one does not vary.

    Raises:
        AnalysisError: see `linear_cka`.
    """
    _expect_paired(x, y)
    return _moments(x, y).procrustes(angular=angular)


def _moments(x: Samples, y: Samples) -> Moments:
    made = Moments()
    made.add(x, y)
    return made


def _expect_paired(x: Tensor, y: Tensor) -> None:
    if len(x) != len(y):
        raise AnalysisError(
            f"expected activations of the same samples, found {len(x)} and {len(y)} of them; run both networks on one data set"
        )
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise AnalysisError("expected finite activations, found NaN or infinite ones; look at the network that gives them")


def _deviations(x: Tensor) -> Tensor:
    if not len(x):
        raise AnalysisError("expected samples, found none; add activations first")
    around = x.double() - x[0].double()  # exactly zero where nothing varies
    return around - around.mean(0)


def _aligned(between: float, x: float, y: float) -> float:
    return min(between / math.sqrt(x * y), 1.0) if x > 0 and y > 0 else math.nan


def _kernel_cka(one: Tensor, two: Tensor, *, debiased: bool) -> float:
    if debiased:
        if len(one) < 4:
            return math.nan
        one, two = (_hollow(kernel) for kernel in (one, two))
    else:
        one, two = (kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean() for kernel in (one, two))
    return _aligned(float((one * two).sum()), float(one.square().sum()), float(two.square().sum()))


def _hollow(kernel: Tensor) -> Tensor:
    """U-centring (Szekely and Rizzo, 2014): inner products of what it gives are unbiased HSICs, up to a factor."""
    n = len(kernel)
    bare = kernel - kernel.diag().diag()
    sums = bare.sum(0)
    made = bare - (sums + sums[:, None]) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return made - made.diag().diag()


def _gaussian(x: Tensor, bandwidth: float) -> Tensor:
    distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    apart = distances[~torch.eye(len(x), dtype=torch.bool, device=x.device)]
    median = apart.median() if apart.numel() else apart.new_zeros(())
    return torch.exp(-0.5 * (distances / (bandwidth * median)).square()) if median > 0 else torch.zeros_like(distances)


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


__all__ = ["CCA", "Moments", "Sums", "cca", "kernel_cka", "linear_cka", "procrustes", "variances"]
