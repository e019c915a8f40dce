"""A weight field: a small network from the coordinates of a weight to its value, one for each slot of an architecture."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.generation.manifold.coordinates import Coordinates, fourier
from weightspace.metanets.layout import Slot


class AxisField(nn.Module):
    """Features of the members of one group: a residual perceptron over their positions and the widths of the slot's groups."""

    def __init__(self, groups: int, *, frequencies: int, hidden: int, depth: int) -> None:
        """Make it.

        Args:
            groups: of the slot.
            frequencies: of the Fourier features of a position.
            hidden: units of each layer.
            depth: residual layers.
        """
        super().__init__()
        self.frequencies = frequencies
        self.start = nn.Linear(1 + 2 * frequencies + groups, hidden)
        self.layers = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(depth))
        self.end = nn.Linear(hidden, hidden)

    def forward(self, positions: Float[Tensor, " members"], shares: Float[Tensor, " groups"]) -> Float[Tensor, "members hidden"]:
        """Compute them."""
        known = torch.cat([fourier(positions, self.frequencies), shares.expand(len(positions), -1)], 1)
        x = torch.relu(self.start(known))
        for layer in self.layers:
            x = x + torch.relu(layer(x))
        made: Tensor = self.end(x)
        return made


class WeightField(nn.Module):
    """An implicit function of the coordinates of a slot's weights, as NeuMeta has one for each tensor (arXiv:2410.11878).

    We depart in its form: each axis has a perceptron of its own, and a weight is a linear function of the product of their features. So the
    perceptrons run over neurons, not over weights, and as many features as a matrix has rows can hold any matrix.
    """

    def __init__(self, slot: Slot, *, frequencies: int, hidden: int, depth: int) -> None:
        """Make it.

        Args:
            slot: whose weights it makes; cells of a kernel are made at once.
            frequencies: see `AxisField`.
            hidden: likewise.
            depth: likewise.
        """
        super().__init__()
        self.groups, self.sources = slot.groups, tuple(slot.groups[j] for j in slot.sources)
        self.axes = nn.ModuleList(AxisField(len(slot.groups), frequencies=frequencies, hidden=hidden, depth=depth) for _ in slot.groups)
        self.out = nn.Linear(hidden, slot.cells)

    def forward(self, coordinates: Coordinates) -> Float[Tensor, "*members cells"]:
        """Make the weights at coordinates, those that are summed over a group divided by its share, so that sums stay as they are."""
        shares = torch.stack([coordinates.shares[group] for group in self.groups]) if self.groups else self.out.bias[:0]
        features = [axis(coordinates.positions[group], shares) for axis, group in zip(self.axes, self.groups, strict=True)]
        made = _products(features, self.out.weight) + self.out.bias
        for group in self.sources:
            made = made / coordinates.shares[group]
        return made


def _products(features: Sequence[Tensor], weight: Float[Tensor, "cells hidden"]) -> Float[Tensor, "*members cells"]:
    """The product over axes of features, weighted and summed, for each combination of members: one matrix product."""
    rows = weight.new_ones(1, weight.shape[1])
    for one in features[:-1]:
        rows = (rows[:, None] * one).flatten(0, 1)
    last = (features[-1][:, None] * weight).flatten(0, 1) if features else weight
    return (rows @ last.T).reshape(*(len(one) for one in features), len(weight))


__all__ = ["AxisField", "WeightField"]
