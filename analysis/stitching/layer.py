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
from weightspace.analysis.stitching.equations import Equations
from weightspace.errors import AnalysisError
from weightspace.registry import Registry


@dataclass(frozen=True)
class Affine:
    """A map `x @ weight.T + bias` of units.

    Attributes:
        weight: (units given, units taken).
        bias: (units given), or one for each place of the target.
    """

    weight: Float[Tensor, "given taken"]
    bias: Float[Tensor, "*places given"]


@dataclass(frozen=True)
class Kind:
    """A registered way to find a stitch.

    Attributes:
        name: that it is asked for under.
        function: of `Equations`, with settings as keywords; gives an `Affine`. One that draws numbers has a keyword `generator`.
        is_square: whether it maps only as many units as it takes.
        is_control: whether it looks at no data, so that what it loses says what finding a stitch is worth.
        reference: paper and equation.
    """

    name: str
    function: Callable[..., Affine]
    is_square: bool = False
    is_control: bool = False
    reference: str = ""

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings with their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY and one.name != "generator"}

    def __call__(self, moments: Moments | Equations, *, generator: torch.Generator | None = None, **settings: Any) -> Affine:
        """Find the map.

        Args:
            moments: of what is taken and what is wanted; from `Equations` about the means of each place follows a bias for each.
            generator: a source of chance, for kinds that draw numbers.
            settings: of the kind.

        Raises:
            AnalysisError: a setting that it does not have, unequal widths where it needs equal ones, or fewer than two samples.
        """
        unknown = next((name for name in settings if name not in self.settings), None)
        if unknown is not None:
            raise AnalysisError(f"stitch '{self.name}' has no setting '{unknown}'; its settings are {', '.join(self.settings) or 'none'}")
        equations = moments if isinstance(moments, Equations) else Equations.of(moments)
        taken, given = equations.widths
        if self.is_square and taken != given:
            raise AnalysisError(f"stitch '{self.name}' needs as many units on both sides, found {taken} and {given}; take 'linear'")
        draws = "generator" in inspect.signature(self.function).parameters
        chance = {"generator": generator or torch.Generator().manual_seed(0)} if draws else {}
        return self.function(equations, **settings, **chance)


stitches: Registry[Kind] = Registry("stitch", "weightspace.analysis.stitching.layers")


def stitching_layer(
    name: str, *, is_square: bool = False, is_control: bool = False, reference: str = ""
) -> Callable[[Callable[..., Affine]], Kind]:
    """Register a function of second moments as a way to find a stitch.

    Args:
        name: to register it under.
        is_square: see `Kind`.
        is_control: see `Kind`.
        reference: paper and equation.
    """
    return lambda function: stitches.add(name, Kind(name, function, is_square, is_control, reference))


class Stitch(nn.Module):
    """A stitching layer: the places of one cut as those of another, then an affine map of units at each of them."""

    def __init__(self, bridge: Bridge, affine: Affine | None = None) -> None:
        """Make one that maps as `affine` does, or zeros.

        Raises:
            AnalysisError: the map is of other units, or has biases for another number of places.
        """
        super().__init__()
        taken, given = bridge.units
        self.bridge = bridge
        if affine is not None and tuple(affine.weight.shape) != (given, taken):
            raise AnalysisError(
                f"expected a map from {taken} to {given} units between '{bridge.source.name}' and '{bridge.target.name}', found one from "
                f"{affine.weight.shape[1]} to {affine.weight.shape[0]}; find it for these cuts"
            )
        if affine is not None and tuple(affine.bias.shape) not in ((given,), (bridge.positions, given)):
            raise AnalysisError(
                f"expected a bias of shape ({given},), or ({bridge.positions}, {given}) for each place of cut '{bridge.target.name}', found "
                f"{tuple(affine.bias.shape)}; find it for these cuts"
            )
        self.weight = nn.Parameter(torch.zeros(given, taken) if affine is None else affine.weight.float().contiguous())
        self.bias = nn.Parameter(torch.zeros(given) if affine is None else affine.bias.float())

    def forward(self, features: Tensor) -> Tensor:
        """Map what crosses at the source to what may cross at the target, in the precision of the stitch."""
        rows = self.bridge.rows(features).to(self.weight.dtype)
        return self.bridge.back(nn.functional.linear(rows, self.weight) + self.bias)

    def extra_repr(self) -> str:
        """Say from where to where."""
        return f"{self.bridge.source.name} {self.bridge.source.shape} -> {self.bridge.target.name} {self.bridge.target.shape}"


__all__ = ["Affine", "Kind", "Stitch", "stitches", "stitching_layer"]
