"""The stitching layer: an affine map of units across a bridge, and the registry of ways to find one from second moments."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.moments import Moments
from weightspace.analysis.stitching.bridge import Bridge
from weightspace.errors import AnalysisError
from weightspace.registry import Registry


@dataclass(frozen=True)
class Affine:
    """A map `x @ weight.T + bias` of units.

    Attributes:
        weight: (units given, units taken).
        bias: (units given).
    """

    weight: Float[Tensor, "given taken"]
    bias: Float[Tensor, " given"]


@dataclass(frozen=True)
class Kind:
    """A registered way to find a stitch.

    Attributes:
        name: that it is asked for under.
        function: of `Moments` (first what is taken, second what is wanted), with settings as keywords; gives an `Affine`. One that draws
            numbers has a keyword `generator`.
        is_square: whether it maps only as many units as it takes.
        reference: paper and equation.
    """

    name: str
    function: Callable[..., Affine]
    is_square: bool = False
    reference: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings with their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY and one.name != "generator"}

    def __call__(self, moments: Moments, *, generator: torch.Generator | None = None, **settings: Any) -> Affine:
        """Find the map.

        Raises:
            AnalysisError: a setting that it does not have, unequal widths where it needs equal ones, or fewer than two samples.
        """
        unknown = next((name for name in settings if name not in self.settings), None)
        if unknown is not None:
            raise AnalysisError(f"stitch '{self.name}' has no setting '{unknown}'; its settings are {', '.join(self.settings) or 'none'}")
        if moments.count < 2:
            raise AnalysisError(f"a stitch needs two samples or more, found {moments.count}; give it more data")
        taken, given = moments.between.cross.shape
        if self.is_square and taken != given:
            raise AnalysisError(f"stitch '{self.name}' needs as many units on both sides, found {taken} and {given}; take 'linear'")
        chance = (
            {"generator": generator or torch.Generator().manual_seed(0)}
            if "generator" in inspect.signature(self.function).parameters
            else {}
        )
        return self.function(moments, **settings, **chance)


stitches: Registry[Kind] = Registry("stitch", "weightspace.analysis.stitching.layers")


def stitching_layer(name: str, *, is_square: bool = False, reference: str = "") -> Callable[[Callable[..., Affine]], Kind]:
    """Register a function of second moments as a way to find a stitch.

    Args:
        name: to register it under.
        is_square: see `Kind`.
        reference: paper and equation.
    """
    return lambda function: stitches.add(name, Kind(name, function, is_square, reference))


class Stitch(nn.Module):
    """A stitching layer: the places of one cut as those of another, then an affine map of units at each of them."""

    def __init__(self, bridge: Bridge, affine: Affine | None = None) -> None:
        """Make one that maps as `affine` does, or zeros."""
        super().__init__()
        taken, given = bridge.units
        self.bridge = bridge
        self.weight = nn.Parameter(torch.zeros(given, taken) if affine is None else affine.weight.float())
        self.bias = nn.Parameter(torch.zeros(given) if affine is None else affine.bias.float())

    def forward(self, features: Tensor) -> Tensor:
        """Map what crosses at the source to what may cross at the target."""
        return self.bridge.back(nn.functional.linear(self.bridge.rows(features), self.weight, self.bias))

    def extra_repr(self) -> str:
        """Say from where to where."""
        return f"{self.bridge.source.name} {self.bridge.source.shape} -> {self.bridge.target.name} {self.bridge.target.shape}"


__all__ = ["Affine", "Kind", "Stitch", "stitches", "stitching_layer"]
