"""Similarity of two representations of the same samples: CKA, canonical correlations, linear regression and Procrustes distances.

All linear ones are functions of second moments (`weightspace.analysis.moments`), for samples that come in parts.
Everything is in float64. What a measure does not define is NaN: activations that do not vary, and too few samples.
"""

import math

import torch
from torch import Tensor

from weightspace.analysis.moments import Moments, Samples, aligned, expect_paired
from weightspace.errors import AnalysisError

PART = 1024
"""Samples that are taken in at once: copies in float64 are of these alone."""


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
    expect_paired(x, y)
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
    expect_paired(x, y)
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
    expect_paired(x, y)
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
    expect_paired(x, y)
    return _moments(x, y).procrustes(angular=angular)


def linear_regression(x: Samples, y: Samples) -> float:
    """The share of the variance of y that is linear in x: R^2 of least squares with an intercept, over all units of y together.

    `|Qx'Y|^2 / |Y|^2` with centred columns, Qx an orthonormal basis of X (Kornblith et al., arXiv:1905.00414, table 1; Csiszarik et al.,
    arXiv:2110.14633, where `LR(X1, X2)` says how much of its first argument the second explains). It has a direction, here that of a stitch:
    from the first to the second. It is taken on the samples of the fit; for held-out errors see
    `weightspace.analysis.stitching.matrix`.

    Args:
        x: activations of the layer that explains.
        y: of the layer that is explained, for the same samples.

    Returns:
        0 to 1; NaN where one does not vary, or where the rank of x reaches samples - 1: then it is 1 whatever the values are.

    Raises:
        AnalysisError: see `linear_cka`.
    """
    expect_paired(x, y)
    return _moments(x, y).explained()


def orthogonal_error(x: Samples, y: Samples) -> float:
    """Orthogonal least squares: what is left of y after the best rotation or reflection of x, without a scale.

    `min_Q |X Q - Y|^2 / |Y|^2` with centred columns (Schoenemann, 1966); the narrower one is padded with zeros, so units that a map can not
    carry count as error. It has a direction only by what it is a share of; with the best scale it would be `1 - (1 - d^2 / 2)^2`, d the
    distance of `procrustes`.

    Args:
        x: activations of the layer that is rotated.
        y: of the other, for the same samples.

    Returns:
        From 0; above 1 where the scales differ much. NaN where one does not vary.

    Raises:
        AnalysisError: see `linear_cka`.
    """
    expect_paired(x, y)
    return _moments(x, y).orthogonal_error()


def _moments(x: Samples, y: Samples) -> Moments:
    made = Moments()
    for one, two in zip(torch.split(x, PART), torch.split(y, PART), strict=True):
        made.add(one, two)
    return made


def _deviations(x: Tensor) -> Tensor:
    if not len(x):
        raise AnalysisError("expected samples, found none; add activations first")
    around = x.double() - x[0].double()  # exactly zero where nothing varies
    return around - around.mean(0)


def _kernel_cka(one: Tensor, two: Tensor, *, debiased: bool) -> float:
    if debiased:
        if len(one) < 4:
            return math.nan
        one, two = (_hollow(kernel) for kernel in (one, two))
    else:
        one, two = (kernel - kernel.mean(0) - kernel.mean(1)[:, None] + kernel.mean() for kernel in (one, two))
    return aligned(float((one * two).sum()), float(one.square().sum()), float(two.square().sum()))


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


__all__ = ["cca", "kernel_cka", "linear_cka", "linear_regression", "orthogonal_error", "procrustes"]
