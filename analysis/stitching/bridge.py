"""A bridge: how the places (pixels, tokens) of one cut become those of another, so that a map of units alone is left to find."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from weightspace.errors import AnalysisError
from weightspace.tracing.cutting import Cut

MOST = 16
"""Places that are kept of a map which becomes a vector: each unit at each of them is a unit of the stitch."""


@dataclass(frozen=True)
class Bridge:
    """From the places of one cut to those of another, by pooling where they become fewer and by interpolation where they become more.

    Between two maps, or two sequences, units are mapped at each place. A sequence whose length is a square, or a square and one or two, is a
    map read row by row, behind class tokens: these go to class tokens, and where a map has none they get its mean. Where one side is a vector and
    the other has places, each unit at each place is a unit of its own; a map that becomes a vector is pooled to at most 16 places before.

    Attributes:
        source: where the features come from.
        target: where they go.
    """

    source: Cut
    target: Cut

    def __post_init__(self) -> None:
        for one in (self.source, self.target):
            if len(one.places) > 2:
                raise AnalysisError(f"cut '{one.name}' has {len(one.places)} dimensions of places, expected two at most; cut elsewhere")

    @cached_property
    def units(self) -> tuple[int, int]:
        """How many units the map takes and gives."""
        return self._widths(self.source, self.target), self._widths(self.target, self.source)

    @property
    def positions(self) -> int:
        """At how many places of the target units are mapped, alike but for the bias."""
        return math.prod(self.target.places) if self.source.places else 1

    def rows(self, features: Tensor) -> Tensor:
        """What crosses at the source, (batch, ...), as (batch, places of the target, units taken)."""
        values = features.movedim(self.source.axis + 1, -1)
        if not self.source.places:
            return values[:, None]
        if not self.target.places:
            grid = values.flatten(1, -2).movedim(-1, 1)
            pooled = self._resized(grid, self.source.places, self._kept(self.source.places))
            return pooled.flatten(1)[:, None]
        return self._moved(values)

    def target_rows(self, features: Tensor) -> Tensor:
        """What crosses at the target, (batch, ...), as (batch, places, units given)."""
        values = features.movedim(self.target.axis + 1, -1)
        if not self.target.places:
            return values[:, None]
        return values.flatten(1, -2) if self.source.places else values.flatten(1)[:, None]

    def back(self, rows: Tensor) -> Tensor:
        """Rows as the target has them, (batch, places, units), in its shape."""
        units = self.target.units
        values = rows.reshape(len(rows), *self.target.places, units)
        return values.movedim(-1, self.target.axis + 1).contiguous()  # as what is behind the cut had it when it was traced

    def _widths(self, one: Cut, other: Cut) -> int:
        """Units of the map on one side."""
        if bool(one.places) == bool(other.places):
            return one.units
        return one.units if not one.places else one.units * math.prod(self._kept(one.places) if one is self.source else one.places)

    @staticmethod
    def _kept(places: tuple[int, ...]) -> tuple[int, ...]:
        """The places that a map is pooled to before it becomes a vector."""
        side = MOST if len(places) == 1 else math.isqrt(MOST)
        return tuple(min(size, side) for size in places)

    def _moved(self, values: Tensor) -> Tensor:
        """(batch, places of the source, units) with the places of the target, in one row."""
        here, there = _Grid.of(self.source), _Grid.of(self.target)
        if len(self.source.places) == len(self.target.places) and not (here.extra or there.extra):
            here, there = _Grid(0, self.source.places), _Grid(0, self.target.places)
        elif len(here.sides) != len(there.sides):  # one is a sequence and no map
            here, there = _Grid(0, (math.prod(self.source.places),)), _Grid(0, (math.prod(self.target.places),))
        row = values.flatten(1, -2)
        grid = self._resized(row[:, here.extra :].movedim(-1, 1), here.sides, there.sides).flatten(2).movedim(1, -1)
        if not there.extra:
            return grid
        front = row[:, : here.extra] if here.extra else row.mean(1, keepdim=True)
        front = front[:, : there.extra]
        missing = there.extra - front.shape[1]
        return torch.cat([front, front[:, -1:].expand(-1, missing, -1), grid], 1)

    @staticmethod
    def _resized(row: Tensor, sides: tuple[int, ...], wanted: tuple[int, ...]) -> Tensor:
        """(batch, units, places) as a grid of other sides."""
        grid = row.reshape(*row.shape[:2], *sides)
        if sides == wanted:
            return grid
        fewer = [min(a, b) for a, b in zip(sides, wanted, strict=True)]
        if len(sides) == 1:
            pooled = nn.functional.adaptive_avg_pool1d(grid, fewer[0])
        else:
            pooled = nn.functional.adaptive_avg_pool2d(grid, (fewer[0], fewer[1]))
        if tuple(fewer) == wanted:
            return pooled
        return nn.functional.interpolate(pooled, size=wanted, mode="linear" if len(sides) == 1 else "bilinear", align_corners=False)


@dataclass(frozen=True)
class _Grid:
    """Places as a map behind some tokens that are no places."""

    extra: int
    sides: tuple[int, ...]

    @classmethod
    def of(cls, one: Cut) -> "_Grid":
        """Read the tokens of a cut as a map where their number says so; a signal, whose units come first, is none."""
        places = one.places
        if len(places) == 2 or one.axis == 0:
            return cls(0, places)
        for extra in (0, 1, 2):
            side = math.isqrt(max(places[0] - extra, 0))
            if side > 1 and side * side == places[0] - extra:
                return cls(extra, (side, side))
        return cls(0, places)


__all__ = ["MOST", "Bridge"]
