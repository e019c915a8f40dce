"""Views of networks: the same functions with their neurons in another order, and weights with noise on them."""

from dataclasses import replace

import torch
from torch import Tensor

from weightspace.metanets.batch import WeightBatch
from weightspace.symmetry import act, random


def reordered(batch: WeightBatch, generator: torch.Generator | None = None) -> WeightBatch:
    """Networks after one element of their discrete symmetries, permutations and signs, the same for all of them.

    Args:
        batch: the networks.
        generator: source of chance.

    Example:
        >>> from weightspace.spec import SymmetrySpec
        >>> spec = SymmetrySpec.parse({"fc.bias": "h"}, sizes={"h": 3})
        >>> batch = WeightBatch.stack([{"fc.bias": torch.tensor([1., 2., 3.])}], spec)
        >>> reordered(batch, torch.Generator().manual_seed(1)).tensors["fc.bias"].sort().values
        tensor([[1., 2., 3.]])
    """
    # The element acts on the places' numbers, from 1 so that a sign can show; what comes out says where each value comes from.
    shapes = {name: batch.spec.shape(name) for name in batch.spec.tensors}
    places = {name: (torch.arange(torch.Size(shape).numel(), dtype=torch.float64) + 1).reshape(shape) for name, shape in shapes.items()}
    moved = act(random(batch.spec, generator, discrete=True), places)
    return replace(batch, tensors={name: _taken(tensor, moved[name]) for name, tensor in batch.tensors.items()})


def _taken(stacked: Tensor, places: Tensor) -> Tensor:
    at = places.flatten().to(stacked.device)
    return (stacked.flatten(1)[:, at.abs().long() - 1] * at.sign().to(stacked)).reshape(stacked.shape)


def noised(values: Tensor, scale: float, generator: torch.Generator | None = None) -> Tensor:
    """Values times 1 plus normal noise.

    Args:
        values: of any shape.
        scale: deviation of the noise.
        generator: source of chance.
    """
    device = values.device if generator is None else generator.device
    noise = torch.randn(values.shape, generator=generator, dtype=values.dtype, device=device)
    return values * (1 + scale * noise.to(values.device))


__all__ = ["noised", "reordered"]
