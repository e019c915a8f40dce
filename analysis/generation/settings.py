"""Settings of generators: of which type, and within which bounds, whoever wrote them."""

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from weightspace.errors import GenerationError, one_line

if TYPE_CHECKING:
    from weightspace.analysis.generation.generator import Kind


Number = int | float
_LARGEST_FLOAT = 3.4e38


@dataclass(frozen=True)
class Bounds:
    """What a number may be.

    Attributes:
        least: the smallest.
        most: the largest.
        is_open: whether the smallest itself is too small.
    """

    least: Number = -math.inf
    most: Number = math.inf
    is_open: bool = False

    def hold(self, value: Number) -> bool:
        """Whether a number is within them; what a 32-bit float cannot hold never is."""
        return (
            -_LARGEST_FLOAT <= value <= _LARGEST_FLOAT and self.least <= value <= self.most and not (self.is_open and value == self.least)
        )

    def __str__(self) -> str:
        if self.least == -math.inf:
            return ""
        if self.most == math.inf:
            return f" from {self.least:,} on"
        return f" above {self.least:,} and up to {self.most:,}" if self.is_open else f" from {self.least:,} to {self.most:,}"


LARGEST = 2**24
"""Of any size."""

SIZE = Bounds(1, LARGEST)
DEEP = Bounds(0, 1000)
"""Layers one after the other."""
ROUNDS = Bounds(1, 10_000)
"""Steps that are taken for every network that is drawn."""
FROM_ZERO = Bounds(0)
SHARE = Bounds(0, 1)

BOUNDS: Mapping[str, Bounds] = {
    **dict.fromkeys(("steps", "fit_steps", "autoencoder_steps", "encoder_steps"), FROM_ZERO),
    **dict.fromkeys(("batch_size", "together", "at_once", "every"), SIZE),
    **dict.fromkeys(("hidden", "width", "latent", "dim", "embedding", "chunk", "decoder_width", "heads", "points", "patch"), SIZE),
    **dict.fromkeys(("max_channels", "max_kernel", "groups"), SIZE),
    **dict.fromkeys(("blocks", "depth", "layers", "frequencies", "virtual_edges"), DEEP),
    **dict.fromkeys(("timesteps", "noise_steps", "sampling_steps", "solver_steps", "averaged"), ROUNDS),
    **dict.fromkeys(("learning_rate", "beta", "sigma", "spread", "source", "temperature", "jitter", "bandwidth"), FROM_ZERO),
    **dict.fromkeys(("noise", "input_noise", "latent_noise", "divergence", "gamma", "faithful", "weight_norm"), FROM_ZERO),
    **dict.fromkeys(("leave_out", "eta", "distil"), SHARE),
    **dict.fromkeys(("smallest", "best"), Bounds(0, 1, is_open=True)),
}
"""What a setting of a name may be, in whatever generator has one of that name and a number for it."""

_WHOLE, _REAL = Bounds(0, LARGEST), Bounds()  # of settings that are not named above


def expect_settings(kind: "Kind", settings: Mapping[str, Any]) -> None:
    """See that settings are such as the kind has, of the types that it says, and within `BOUNDS`.

    Args:
        kind: of the generator.
        settings: by name; those that are left out keep their defaults.

    Raises:
        GenerationError: one is not.
    """
    parameters = inspect.signature(kind.make).parameters
    for name, value in settings.items():
        if name not in kind.settings:
            known = ", ".join(kind.settings) or "none"
            raise GenerationError(f"generator '{kind.name}' has no setting '{one_line(name, 60)}'; expected one of: {known}")
        options = _options(parameters[name].annotation)
        if not any(_fits(value, option, name) for option in options):
            expected = " or ".join(_said(option, name) for option in options)
            raise GenerationError(f"setting '{name}' of generator '{kind.name}' is {one_line(repr(value), 80)}; expected {expected}")


def _options(annotation: Any) -> tuple[Any, ...]:
    """The types that an annotation allows."""
    return get_args(annotation) if get_origin(annotation) in (UnionType, Union) else (annotation,)


def _fits(value: Any, option: Any, name: str) -> bool:
    """Whether a value is of a type, and within the bounds of the setting; of a type that is not known here, any."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if option is int:
        return is_number and isinstance(value, int) and BOUNDS.get(name, _WHOLE).hold(value)
    if option is float:
        return is_number and BOUNDS.get(name, _REAL).hold(value)
    if get_origin(option) is Sequence:
        return isinstance(value, list | tuple) and all(isinstance(one, str) for one in value)
    return not isinstance(option, type) or option is inspect.Parameter.empty or isinstance(value, option)


def _said(option: Any, name: str) -> str:
    if option is int:
        return f"a whole number{BOUNDS.get(name, _WHOLE)}"
    if option is float:
        return f"a number{BOUNDS.get(name, _REAL)}"
    if get_origin(option) is Sequence:
        return "a list of names"
    return {bool: "True or False", str: "a word", NoneType: "None"}.get(option, str(option))


__all__ = ["BOUNDS", "Bounds", "expect_settings"]
