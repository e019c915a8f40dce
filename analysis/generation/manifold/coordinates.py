"""Coordinates of weights: where each stands on the neuron groups that index its tensor, and how large these groups are.

NeuMeta (Yang and Wang, ECCV 2024, arXiv:2410.11878) gives every kernel the numbers of its channels, moved by noise and divided by the widths, and
the widths. Here a position belongs to the neuron: all tensors that touch a group see the same one, so that a network with noise is one
whose neurons stand a little elsewhere. We depart in that, in placing neurons in the middle of their cells, so that noise of one cell
fills the line from 0 to 1 at every width, and in giving the widths as they are, without Fourier features, since they are to be read between those seen.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Where the members of neuron groups stand.

    Attributes:
        positions: of the members of each group, from 0 to 1.
        shares: size of each group as a share of its full size.
    """

    positions: Mapping[str, Float[Tensor, " members"]]
    shares: Mapping[str, Float[Tensor, ""]]

    @classmethod
    def of(
        cls,
        sizes: Mapping[str, int],
        full: Mapping[str, int],
        *,
        noise: float = 0.0,
        noisy: Collection[str] = (),
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> "Coordinates":
        """Place the members of groups.

        Args:
            sizes: of each group.
            full: what a size is a share of.
            noise: width of the uniform noise on positions and sizes, in members; 1 moves each anywhere in its own cell.
            noisy: groups that have noise.
            generator: draws the noise.
            device: of the coordinates.

        Example:
            >>> Coordinates.of({"h": 2}, {"h": 8}).positions["h"], Coordinates.of({"h": 2}, {"h": 8}).shares["h"]
            (tensor([0.2500, 0.7500]), tensor(0.2500))
        """
        positions, shares = {}, {}
        for group, size in sizes.items():
            moved = torch.zeros(size + 1)
            if noise and group in noisy:
                moved = noise * (torch.rand(size + 1, generator=generator) - 0.5)
            positions[group] = ((torch.arange(size) + 0.5 + moved[:-1]) / size).to(device)
            shares[group] = ((size + moved[-1]) / full[group]).to(device)
        return cls(positions, shares)


def fourier(positions: Float[Tensor, " members"], frequencies: int) -> Float[Tensor, "members features"]:
    """A position with the sines and cosines of pi times it, doubled again and again."""
    angles = math.pi * positions[:, None] * 2.0 ** torch.arange(frequencies, device=positions.device)
    return torch.cat([positions[:, None], angles.sin(), angles.cos()], 1)


__all__ = ["Coordinates", "fourier"]
