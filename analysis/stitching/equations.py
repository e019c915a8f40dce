"""Normal equations: the second moments about their means of what a stitch takes and of what is wanted, in all that a linear map is found from."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.moments import DEAD, TOLERANCE, Moments
from weightspace.errors import AnalysisError


class Places:
    """Sums of two representations at each of their places (pixels, tokens), over examples that come in parts."""

    def __init__(self) -> None:
        """Begin with no examples."""
        self.examples = 0

    def add(self, x: Float[Tensor, "batch places units"], y: Float[Tensor, "batch places others"]) -> None:
        """Take in some more examples of both."""
        if not self.examples:
            self._x, self._y = (torch.zeros(one.shape[1:], dtype=torch.float64, device=one.device) for one in (x, y))
        self.examples += len(x)
        self._x, self._y = self._x + x.double().sum(0), self._y + y.double().sum(0)

    @property
    def means(self) -> tuple[Float[Tensor, "places units"], Float[Tensor, "places others"]]:
        """Of both representations, at each place."""
        return self._x / self.examples, self._y / self.examples


@dataclass(frozen=True)
class Equations:
    """Sums of products of deviations from means, those of all samples or those of each place.

    Units that do not vary have zeros, not what rounding left of them.

    Attributes:
        x: of what is taken with itself.
        y: of what is wanted with itself.
        between: of what is taken with what is wanted.
        taken: means of what is taken, of all samples or of each place.
        wanted: means of what is wanted, likewise.
        count: samples.
    """

    x: Float[Tensor, "taken taken"]
    y: Float[Tensor, "wanted wanted"]
    between: Float[Tensor, "taken wanted"]
    taken: Float[Tensor, "*places taken"]
    wanted: Float[Tensor, "*places wanted"]
    count: int

    @classmethod
    def of(cls, moments: Moments, places: Places | None = None) -> "Equations":
        """Read what has been summed: about the means of all samples, or about those of each place where these are given.

        Raises:
            AnalysisError: there are fewer than two samples.
        """
        if moments.count < 2:
            raise AnalysisError(f"a stitch needs two samples or more, found {moments.count}; give it more data")
        means = moments.between.means
        x, y, between = moments.x.cross, moments.y.cross, moments.between.cross
        dead = [one.diag() <= DEAD * one.diag().max() for one in (x, y)]
        if places is not None and len(places.means[0]) > 1:
            left, right = (at_places - mean for at_places, mean in zip(places.means, means, strict=True))
            total = x.diag(), y.diag()
            means = places.means
            x, y, between = (
                sums - places.examples * a.T @ b for sums, a, b in ((x, left, left), (y, right, right), (between, left, right))
            )
            dead = [now | (one.diag() <= DEAD * all_.max()) for now, one, all_ in zip(dead, (x, y), total, strict=True)]
        x, y = (one.masked_fill(still[:, None] | still, 0.0) for one, still in ((x, dead[0]), (y, dead[1])))
        return cls(x, y, between.masked_fill(dead[0][:, None] | dead[1], 0.0), *means, moments.count)

    @property
    def widths(self) -> tuple[int, int]:
        """How many units are taken, and wanted."""
        return len(self.x), len(self.y)

    @cached_property
    def rank(self) -> int:
        """The numerical rank of what is taken."""
        values = torch.linalg.eigvalsh(self.x)
        return int((values > TOLERANCE * values[-1].clamp(min=0)).sum())

    @property
    def correlations(self) -> Float[Tensor, "taken wanted"]:
        """Of each unit taken with each that is wanted; zero for units that do not vary."""
        scale = [one.diag().clamp(min=0).rsqrt().nan_to_num(posinf=0.0) for one in (self.x, self.y)]
        return (self.between * scale[0][:, None] * scale[1]).clamp(-1, 1)

    def offset(self, weight: Float[Tensor, "wanted taken"]) -> Float[Tensor, "*places wanted"]:
        """The bias with which a map of units has the least squared error: it takes means to means."""
        return self.wanted - self.taken @ weight.T

    def error(self, weight: Float[Tensor, "wanted taken"], bias: Float[Tensor, "*places wanted"]) -> float:
        """The squared error of a map as a share of the variance of what is wanted: `1 - R^2`; NaN where that does not vary."""
        variance = float(self.y.trace())
        missed = (self.offset(weight) - bias).square().sum(-1).mean() * self.count
        left = variance - 2 * float((weight * self.between.T).sum()) + float((weight @ self.x * weight).sum())
        return (max(left, 0.0) + float(missed)) / variance if variance > 0 else math.nan


__all__ = ["Equations", "Places"]
