"""Encoders that tell an image or a signal in tokens, built in or of one's own."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import GenerationError, WeightSpaceError, one_line
from weightspace.modules import load_function
from weightspace.registry import Registry

Shape = tuple[int, ...]

encoders: Registry[Callable[[Shape, int, int], nn.Module]] = Registry("encoder")
"""Built-in encoders by name: made for inputs of a shape, with the side of a patch and the size of a token."""


def encoder_for(name: str, shape: Shape, *, patch: int, dim: int) -> tuple[nn.Module, int, int]:
    """Make an encoder: a module from `(batch, *shape)` to `(batch, tokens, size)`.

    Args:
        name: a built-in one, or `module:function` of one's own: a class of modules, or a function that says it returns one, called with
            the shape. A pretrained network goes in so; `torch.nn:Identity` takes inputs that are tokens already.
        shape: of one input.
        patch: see `encoders`; not for one's own.
        dim: likewise.

    Returns:
        The module in eval mode, how many tokens it makes of an input, and their size.

    Raises:
        UnknownNameError: there is no such encoder, or no such function.
        TaskError: the function's module cannot be imported.
        GenerationError: it is no encoder, or none for inputs of this shape.
    """
    made = (_own(name, shape) if ":" in name else encoders[name](shape, patch, dim)).eval()
    try:
        with torch.no_grad():
            found = made(torch.zeros(1, *shape))
    except WeightSpaceError:
        raise
    except Exception as error:  # what a foreign module may raise
        raise GenerationError(
            f"encoder '{name}' cannot take inputs of shape {list(shape)} ({one_line(str(error), 200)}); name another, or give other conditions"
        ) from error
    if not isinstance(found, Tensor) or found.ndim != 3 or not found.is_floating_point():
        told = f"shape {list(found.shape)}" if isinstance(found, Tensor) else f"type {type(found).__name__}"
        raise GenerationError(f"encoder '{name}' made an output of {told} of one input, expected floats of shape [1, tokens, size]")
    return made, found.shape[1], found.shape[2]


def _own(name: str, shape: Shape) -> nn.Module:
    """What a user's function makes; its annotation is asked first, since the name may come from a file that somebody else wrote."""
    function = load_function(name)
    told = function if isinstance(function, type) else _returned(function)
    if not (isinstance(told, type) and issubclass(told, nn.Module)):
        raise GenerationError(f"'{name}' does not say that it returns a torch.nn.Module; give it that return annotation")
    made = function(shape)
    if not isinstance(made, nn.Module):
        raise GenerationError(f"'{name}' returned a {type(made).__name__}, expected the torch.nn.Module that it says; mend it")
    return made


def _returned(function: Callable[..., Any]) -> Any:
    try:
        return inspect.signature(function, eval_str=True).return_annotation
    except (NameError, TypeError, ValueError):  # builtins have no signature
        return None


def _grid(shape: Shape) -> tuple[int, Shape]:
    """Channels and sides of an input: (pixels,), (rows, columns) or (channels, rows, columns)."""
    if not 1 <= len(shape) <= 3 or not math.prod(shape):
        raise GenerationError(
            f"conditions of shape {list(shape)} are no signals or images; "
            "give (pixels,), (rows, columns) or (channels, rows, columns), or name an encoder of your own as 'module:function'"
        )
    return (shape[0], shape[1:]) if len(shape) == 3 else (1, shape)


class Patches(nn.Module):
    """Patches that do not overlap, each mapped linearly to a token; edges are filled up with zeros."""

    def __init__(self, shape: Shape, patch: int, dim: int) -> None:
        """Make it.

        Args:
            shape: of an input.
            patch: side of a patch.
            dim: size of a token.
        """
        super().__init__()
        channels, self.sides = _grid(shape)
        self.channels, self.patch = channels, patch
        self.embed = nn.Linear(channels * patch ** len(self.sides), dim)

    def forward(self, inputs: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch tokens dim"]:
        """Cut and map."""
        maps = inputs.reshape(len(inputs), self.channels, *self.sides)
        maps = nn.functional.pad(maps, [amount for side in reversed(self.sides) for amount in (0, -side % self.patch)])
        for axis in range(2, maps.ndim):
            maps = maps.unfold(axis, self.patch, self.patch)
        sides = len(self.sides)
        maps = maps.movedim(1, 1 + sides).flatten(1 + sides).flatten(1, sides)
        tokens: Tensor = self.embed(maps)
        return tokens


class Convolutions(nn.Module):
    """Two random convolutions, the second with the stride of a patch, each rectified: features that nobody trained."""

    def __init__(self, shape: Shape, patch: int, dim: int) -> None:
        """Make it; see `Patches`."""
        super().__init__()
        self.channels, self.sides = _grid(shape)
        make: Any = nn.Conv1d if len(self.sides) == 1 else nn.Conv2d
        first = make(self.channels, dim, 3, padding=1)
        second = make(dim, dim, patch + 1, stride=patch, padding=(patch + 1) // 2)
        for layer in (first, second):
            nn.init.kaiming_normal_(layer.weight)
        self.layers = nn.Sequential(first, nn.ReLU(), second, nn.ReLU())

    def forward(self, inputs: Float[Tensor, "batch *shape"]) -> Float[Tensor, "batch tokens dim"]:
        """Convolve twice."""
        maps: Tensor = self.layers(inputs.reshape(len(inputs), self.channels, *self.sides))
        return maps.flatten(2).mT


encoders.add("patches", Patches)
encoders.add("random", Convolutions)

__all__ = ["Convolutions", "Patches", "encoder_for", "encoders"]
