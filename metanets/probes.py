"""Probes: inputs that networks are asked about, made by a deep linear generator or drawn once at random."""

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import MetanetError
from weightspace.metanets.layout import Layout, Slot

SMALLEST = 4
"""Cells a side of the first map of a convolutional generator, at most; each further layer doubles them."""

CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
Linear = TypeVar("Linear", bound=nn.Linear | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d)


class Generator(nn.Module):
    """Probes made from learned latents by layers without anything between them.

    Kahana et al., Deep Linear Probe Generators (arXiv:2410.10811), section 4. Vectors come from two linear layers. Signals, images and
    volumes (channels first) come from transposed convolutions that double their sides up to the size asked for, which is then cut
    out, and a tanh. We draw the initial layers so that they keep the variance.
    """

    def __init__(self, probes: int, inputs: Sequence[int], *, latent: int = 32, width: int = 16, scale: float = 1.0) -> None:
        """Build one.

        Args:
            probes: how many.
            inputs: shape of one: (features,), or (channels, *sides).
            latent: length of the latents.
            width: channels of the last layer but one of a convolutional generator.
            scale: what the probes are multiplied by: the largest value of a signal or image.
        """
        super().__init__()
        self.inputs, self.scale = tuple(inputs), scale
        self.latents = nn.Parameter(torch.randn(probes, latent, *(1 for _ in inputs[1:])))
        self.layers = nn.Sequential(*(_convolutions(self.inputs, latent, width) if len(inputs) > 1 else _dense(inputs[0], latent)))

    def forward(self) -> Float[Tensor, "probes ..."]:
        """All probes: (probes, *inputs)."""
        made: Tensor = self.layers(self.latents)
        if len(self.inputs) > 1:
            for dim, side in enumerate(self.inputs[1:], 2):
                made = made.narrow(dim, 0, side)
            made = torch.tanh(made)
        return made * self.scale


class Noise(nn.Module):
    """Probes drawn once from a normal distribution."""

    def __init__(self, probes: int, inputs: Sequence[int], *, scale: float = 1.0) -> None:
        """Draw them.

        Args:
            probes: how many.
            inputs: shape of one.
            scale: their deviation.
        """
        super().__init__()
        self.values = nn.Buffer(scale * torch.randn(probes, *inputs))

    def forward(self) -> Float[Tensor, "probes ..."]:
        """All probes: (probes, *inputs)."""
        return self.values


def _dense(features: int, latent: int) -> list[nn.Module]:
    return [_drawn(nn.Linear(latent, latent), latent), _drawn(nn.Linear(latent, features), latent)]


def _convolutions(inputs: tuple[int, ...], latent: int, width: int) -> list[nn.Module]:
    dims = len(inputs) - 1
    if dims > len(CONVOLUTIONS):
        raise MetanetError(f"probes of shape {list(inputs)} have {dims} sides; expected channels and at most three sides")
    layer = CONVOLUTIONS[dims - 1]
    doublings = max(0, math.ceil(math.log2(max(inputs[1:]) / SMALLEST)))
    channels = [width * 2 ** (doublings - k) for k in range(doublings + 1)]
    sides = tuple(math.ceil(side / 2**doublings) for side in inputs[1:])
    made: list[nn.Module] = [_drawn(layer(latent, channels[0], sides), latent)]
    # Of a kernel of 4 with a stride of 2, each cell hears 2 cells a side; of one of 3, all.
    made += [_drawn(layer(channels[k], channels[k + 1], 4, 2, 1), channels[k] * 2**dims) for k in range(doublings)]
    return [*made, _drawn(layer(channels[-1], inputs[0], 3, 1, 1), channels[-1] * 3**dims)]


@torch.no_grad()
def _drawn(layer: Linear, fan: int) -> Linear:
    """A layer that keeps the variance of what it reads, which is `fan` numbers for each that it makes."""
    nn.init.normal_(layer.weight, std=fan**-0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def input_shape(layouts: Sequence[Layout], name: str, given: Sequence[int] = ()) -> tuple[int, ...]:
    """The shape of one input: what is given, else from the first matrix of each architecture.

    Args:
        layouts: of the architectures.
        name: of the metanet that asks, for its messages.
        given: the shape, where it is known.

    Raises:
        MetanetError: what is given is no shape; or the first layer is no matrix of inputs, or architectures differ.
    """
    if any(side < 1 for side in given):
        raise MetanetError(f"metanet '{name}' was given inputs={list(given)}; expected the shape of one input, all sides 1 or more")
    if given:
        return tuple(given)
    found = {_size(layout, _first_matrix(layout), made=False) for layout in layouts}
    if len(found) != 1 or None in found:
        raise MetanetError(
            f"metanet '{name}' cannot tell the shape of the networks' inputs from their specs; give inputs=[...], the shape of one input"
        )
    return tuple(one for one in found if one is not None)


def output_size(layouts: Sequence[Layout], name: str) -> int:
    """How many outputs there are, from the last matrix of each architecture that makes something of a fixed order.

    Raises:
        MetanetError: there is none, or architectures differ.
    """
    found = {next((size for slot in reversed(layout.slots) if (size := _size(layout, slot, made=True))), None) for layout in layouts}
    if len(found) != 1 or None in found:
        raise MetanetError(
            f"metanet '{name}' cannot tell the number of the networks' outputs from their specs; give outputs=..., or one metanet for each"
        )
    return int(next(iter(found)) or 0)


def _first_matrix(layout: Layout) -> Slot | None:
    return next((slot for slot in layout.slots if len(slot.tips) > 1), None)


def _size(layout: Layout, slot: Slot | None, *, made: bool) -> int | None:
    """How many members one side of a matrix has; None where it has none of a fixed order alone, or reads more than vectors."""
    if slot is None or not slot.sources or (slot.cells > 1 and not made):
        return None
    dims = [j for j in range(len(slot.groups)) if (j not in slot.sources) == made]
    if not all(layout.has_identity(slot.groups[j]) for j in dims):
        return None
    return math.prod(layout.groups[slot.groups[j]].size for j in dims)


__all__ = ["Generator", "Noise", "input_shape", "output_size"]
