"""A metanet: a network that reads weights, registered by a decorator in a file of its own and built by name."""

import abc
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import MetanetError, WeightSpaceError, one_line
from weightspace.metanets.batch import WeightBatch, WeightSet
from weightspace.metanets.layout import Layout
from weightspace.registry import Registry
from weightspace.spec import SymmetrySpec

Honours = Literal["permutation", "sign", "scale", "rotation", "orthogonal", "linear"]
Reads = Literal["weights", "function", "names"]
UNBUILDABLE = (WeightSpaceError, ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, TypeError, ValueError)
"""What building from settings that somebody else wrote can raise."""


class MetaNet(nn.Module, abc.ABC):
    """A network whose input is weights and whose output is one vector a network.

    Attributes:
        dim: length of the vectors.
        recipe: name, specs and settings that it was built with.
        is_faint: whether the vectors of different networks are nearly one before training, so that a predictor has to standardise them:
            what they differ in has next to no slope else.
    """

    is_faint: ClassVar[bool] = False
    dim: int
    recipe: "BuiltFrom"

    @abc.abstractmethod
    def embed(self, batch: WeightBatch) -> Float[Tensor, "networks dim"]:
        """Read networks of one architecture.

        Raises:
            MetanetError: the architecture is not one that it was built for.
        """

    def fit_inputs(self, networks: WeightSet) -> None:
        """Look at the networks to be trained on, once and before training, to bring their weights to a scale; nothing by default."""

    def forward(self, networks: WeightSet | WeightBatch) -> Float[Tensor, "networks dim"]:
        """Read networks of any architectures, those of one at a time."""
        if isinstance(networks, WeightBatch):
            return self.embed(networks)
        return networks.gather([self.embed(batch) for batch in networks.batches])


class EquivariantMetaNet(MetaNet):
    """A metanet that also has a feature for every weight, which moves as the weight does.

    Attributes:
        channels: length of a feature.
    """

    channels: int

    @abc.abstractmethod
    def features(self, batch: WeightBatch) -> dict[str, Float[Tensor, "networks ... channels"]]:
        """Features of each slot's weights: (networks, *sizes of the groups, channels) by slot key.

        A metanet that honours signs or scales gives features that are flipped and scaled as the weights are.
        """


@dataclass(frozen=True)
class Family:
    """A registered kind of metanet.

    Attributes:
        name: that it is built by.
        make: its class or function, of layouts and settings.
        reference: paper, with arXiv id.
        honours: the symmetries that leave its vectors unchanged.
        reads: `weights` alone, `function` (it runs the networks, and needs their module), or `names` (shapes and settings alone).
        any_architecture: whether one instance reads architectures that it was not built for.
        couples: whether it sees which weights share a neuron; without, tensors are bags of numbers to it.
    """

    name: str
    make: Callable[..., MetaNet]
    reference: str = ""
    honours: frozenset[Honours] = frozenset({"permutation"})
    reads: Reads = "weights"
    any_architecture: bool = False
    couples: bool = True

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.make) or "").partition("\n")[0]

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings with their defaults."""
        parameters = inspect.signature(self.make).parameters.values()
        return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}


@dataclass(frozen=True)
class BuiltFrom:
    """What a metanet was built with: everything but its parameters."""

    name: str
    specs: tuple[SymmetrySpec, ...]
    settings: Mapping[str, Any]


metanets: Registry[Family] = Registry("metanet", "weightspace.metanets.families")


def metanet(
    name: str,
    *,
    reference: str = "",
    honours: Sequence[Honours] = ("permutation",),
    reads: Reads = "weights",
    any_architecture: bool = False,
    couples: bool = True,
) -> Callable[[Callable[..., MetaNet]], Callable[..., MetaNet]]:
    """Register a class (or function) as a family of metanets; it is called with the layouts, then settings by keyword.

    Args:
        name: to build it by.
        reference: paper, with arXiv id.
        honours: see `Family`.
        reads: see `Family`.
        any_architecture: see `Family`.
        couples: see `Family`.
    """

    def register(make: Callable[..., MetaNet]) -> Callable[..., MetaNet]:
        metanets.add(name, Family(name, make, reference, frozenset(honours), reads, any_architecture, couples))
        return make

    return register


def build(name: str, specs: SymmetrySpec | Sequence[SymmetrySpec], **settings: Any) -> MetaNet:
    """Build a metanet for architectures, its parameters drawn from torch's default generator.

    Args:
        name: of a family (see `metanets`).
        specs: of one architecture or of several.
        settings: of the family, by keyword.

    Raises:
        UnknownNameError: no family has that name.
        MetanetError: a setting that the family does not have or cannot be built with, no specs, or an architecture that it cannot read.

    Example:
        >>> build("statistics", SymmetrySpec.parse({"fc.weight": "h 4"}, sizes={"h": 8})).dim
        64
    """
    family = metanets[name]
    given = (specs,) if isinstance(specs, SymmetrySpec) else tuple(specs)
    if not given:
        raise MetanetError(f"metanet '{name}' was given no specs; give the spec of at least one architecture")
    for setting in settings:
        if setting not in family.settings:
            known = ", ".join(family.settings) or "none"
            raise MetanetError(f"metanet '{name}' has no setting '{setting}'; expected one of: {known}")
    dim = settings.get("dim", 1)
    if isinstance(dim, int) and dim < 1:
        raise MetanetError(f"metanet '{name}' was given dim={dim}; expected a length of 1 or more")
    try:
        made = family.make([Layout.of(spec) for spec in given], **settings)
    except WeightSpaceError:
        raise
    except UNBUILDABLE as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in settings.items()) or "its settings as they are"
        raise MetanetError(
            f"metanet '{name}' cannot be built with {one_line(shown, 200)} ({one_line(str(error), 200)}); change the settings"
        ) from error
    made.recipe = BuiltFrom(name, given, settings)
    return made


__all__ = ["BuiltFrom", "EquivariantMetaNet", "Family", "MetaNet", "build", "metanet", "metanets"]
