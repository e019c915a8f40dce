"""What the spectrum and the entries of a low-rank update look like, from its factors alone: five numbers for each role of a layer.

Detecting backdoored adapters from their weights (arXiv:2602.15195): of q, k, v and o each, which makes 20 numbers.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from weightspace.adapters import LowRank
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.roles import role_of

FEATURES = ("sigma1", "frobenius", "concentration", "entropy", "kurtosis")
ATTENTION = ("q", "k", "v", "o")
BLOCK = 1 << 22  # entries of an update that are written out at once

AGGREGATES = ("mean", "max")


def update_features(update: LowRank) -> dict[str, float]:
    """Compute five numbers of one update without writing it out; magnitudes of a DoRA do not count.

    `sigma1` is the largest singular value and `frobenius` the norm, `concentration` is `sigma1^2 / frobenius^2`, `entropy` that of the shares of
    energy `sigma_i^2 / frobenius^2` in nats, `kurtosis` the fourth moment of the entries around their mean over the squared variance (3 for normal
    ones). An update of nothing has norms 0 and no shape: the others are NaN.

    Raises:
        AnalysisError: factors that are not finite, or empty.

    Example:
        >>> update = LowRank("w", torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [0.0]]), 2.0, (2, 2))
        >>> round(update_features(update)["sigma1"], 9), update_features(update)["entropy"]
        (10.0, 0.0)
    """
    a, b = update.a.double(), update.b.double() * update.scale
    if not a.numel() or not b.numel():
        raise AnalysisError(f"the update of '{update.target}' is empty (rank {update.rank}); leave it out")
    if not bool(torch.isfinite(a).all() and torch.isfinite(b).all()):
        raise AnalysisError(f"the update of '{update.target}' has factors that are not finite; train it again")
    values = torch.linalg.svdvals(torch.linalg.qr(b, mode="r")[1] @ torch.linalg.qr(a.T, mode="r")[1].T)
    energy = values.square()
    total = float(energy.sum())
    if not total > 0:
        return {"sigma1": 0.0, "frobenius": 0.0, "concentration": math.nan, "entropy": math.nan, "kurtosis": math.nan}
    shares = energy / total
    return {
        "sigma1": float(values[0]),
        "frobenius": math.sqrt(total),
        "concentration": float(shares[0]),
        "entropy": max(0.0, float(-torch.special.xlogy(shares, shares).sum())),
        "kurtosis": kurtosis(a, b),
    }


def kurtosis(a: Tensor, b: Tensor) -> float:
    """Compute the kurtosis of the entries of `b @ a`; NaN where they are all equal.

    For small ranks from sums of products of the factors' rows, since `sum_ij (sum_r b_ir a_rj)^4` is the inner product of the fourth moments of b's rows
    and a's columns; for large ones the product is written out block by block.

    Args:
        a: (rank, columns).
        b: (rows, rank).
    """
    rank, count = b.shape[1], b.shape[0] * a.shape[1]
    pairs = rank * (rank + 1) // 2
    if pairs * pairs * (b.shape[0] + a.shape[1]) <= count * (rank + 4):
        moments = _moments_of_factors(a, b)
    else:
        step = max(1, BLOCK // a.shape[1])
        parts = [b[start : start + step] @ a for start in range(0, b.shape[0], step)]
        moments = [math.fsum(float(part.pow(power).sum()) for part in parts) for power in (1, 2, 3, 4)]
    mean, second, third, fourth = (one / count for one in moments)
    variance = second - mean**2
    if not variance > 1e-12 * second:  # entries that are all equal, up to rounding
        return math.nan
    return (fourth - 4 * mean * third + 6 * mean**2 * second - 3 * mean**4) / variance**2


def _moments_of_factors(a: Tensor, b: Tensor) -> list[float]:
    """Sums of the first four powers of the entries of `b @ a`."""
    rank = b.shape[1]
    first, second = torch.triu_indices(rank, rank, device=b.device)
    often = torch.where(first == second, 1.0, 2.0).to(b)  # a pair of different members stands twice
    rows, columns = b[:, first] * b[:, second] * often, a.T[:, first] * a.T[:, second]
    return [
        float(b.sum(0) @ a.sum(1)),
        float(rows.sum(0) @ columns.sum(0)),
        float(((rows.T @ b) * (columns.T @ a.T)).sum()),
        float(((rows.T @ rows) * (columns.T @ columns)).sum()),
    ]


def adapter_features(
    updates: Mapping[str, LowRank], *, roles: Sequence[str] | None = ATTENTION, aggregate: str = "mean"
) -> dict[str, float]:
    """Compute the five numbers for each role of an adapter's layers, over all layers of that role, by key "role/feature".

    Args:
        updates: an `Adapter`, or updates by the name of what they update.
        roles: to look for (see `weightspace.roles`); by default those of attention, None for all that there are. A role that has no
            layer has NaN.
        aggregate: how layers of one role are put together: their `mean`, or the `max`, by which one odd layer shows.

    Raises:
        AnalysisError: the adapter has no low-rank update, or one that is empty or not finite.
        UnknownNameError: no such way to put layers together.
    """
    if aggregate not in AGGREGATES:
        raise UnknownNameError.of("way to put layers together", aggregate, AGGREGATES)
    if not len(updates):
        raise AnalysisError("expected low-rank updates, found none; give an adapter with factors")
    found: dict[str, list[dict[str, float]]] = {}
    for name in updates:
        role = role_of(name)
        if roles is None or role in roles:
            found.setdefault(role, []).append(update_features(updates[name]))
    wanted = sorted(found) if roles is None else list(roles)
    return {
        f"{role}/{feature}": _together([one[feature] for one in found.get(role, [])], aggregate) for role in wanted for feature in FEATURES
    }


def _together(values: list[float], aggregate: str) -> float:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return math.nan
    return max(known) if aggregate == "max" else sum(known) / len(known)


__all__ = ["ATTENTION", "FEATURES", "adapter_features", "kurtosis", "update_features"]
