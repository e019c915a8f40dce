"""A metanet: a network that reads weights, registered by a decorator in a file of its own, built by name, saved and loaded."""

import abc
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.checkpoint import Checkpoint
from weightspace.errors import MetanetError, WeightSpaceError, one_line
from weightspace.formats import open_checkpoint
from weightspace.formats.safetensors import save
from weightspace.metanets.batch import WeightBatch, WeightSet
from weightspace.metanets.layout import Layout
from weightspace.registry import Registry
from weightspace.spec import SymmetrySpec

Honours = Literal["permutation", "sign", "scale", "rotation", "orthogonal", "linear"]
PREDICTOR = "predictor."
"""What the names of a predictor's own tensors begin with, in a file that also holds its metanet."""

Reads = Literal["weights", "function", "names"]
UNBUILDABLE = (WeightSpaceError, ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, TypeError, ValueError)
"""What building from settings that somebody else wrote can raise."""


class MetaNet(nn.Module, abc.ABC):
    """A network whose input is weights and whose output is one vector a network.

    Attributes:
        dim: length of the vectors.
        recipe: name, specs and settings that it was built with.
    """

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


def save_metanet(net: MetaNet, path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Save a metanet as safetensors; what it was built with is in the file's metadata.

    Args:
        net: built by `build`.
        path: where to.
        metadata: of one's own, text by text.
    """
    tensors = {name: tensor.detach() for name, tensor in net.state_dict().items()}
    return save(tensors, Path(path), {"metanet": recipe_of(net), **(metadata or {})})


def load_metanet(source: str | Path | Checkpoint) -> MetaNet:
    """Load a metanet that `save_metanet` saved, or that of a predictor.

    Raises:
        FormatError: the file cannot be read.
        MetanetError: it holds no metanet, or one of settings that are not known here.
    """
    return built_from(source if isinstance(source, Checkpoint) else open_checkpoint(Path(source)))


def recipe_of(net: MetaNet) -> str:
    """What a metanet was built with, as JSON."""
    specs = [spec.to_dict() for spec in net.recipe.specs]
    return json.dumps({"name": net.recipe.name, "settings": dict(net.recipe.settings), "specs": specs})


def built_from(checkpoint: Checkpoint) -> MetaNet:
    """Build the metanet that a checkpoint holds, and load it.

    Raises:
        MetanetError: it holds no metanet, or one of settings that are not known here.
    """
    where, text = checkpoint.path or "the checkpoint", checkpoint.metadata.get("metanet")
    if text is None:
        raise MetanetError(f"'{where}' holds no metanet; give a file that save_metanet or 'weightspace train-metanet' wrote")
    shapes = {name: tuple(info.shape) for name, info in checkpoint.info.items() if not name.startswith(PREDICTOR)}
    try:
        recipe = json.loads(text) if isinstance(text, str) else text
        name, settings = recipe["name"], recipe["settings"]
        specs = [SymmetrySpec.from_yaml(json.dumps(spec)) for spec in recipe["specs"]]
        _expect_no_larger(settings, sum(math.prod(shape) for shape in shapes.values()))
        with torch.device("meta"):  # shapes alone: what the file claims is compared with what it holds before anything is allocated
            claimed = {key: tuple(tensor.shape) for key, tensor in build(name, specs, **settings).state_dict().items()}
        net = build(name, specs, **settings) if claimed == shapes else None
    except UNBUILDABLE as error:
        raise MetanetError(
            f"the metanet in '{where}' cannot be built again ({one_line(str(error), 200)}); save it with this version"
        ) from error
    if net is None:
        raise MetanetError(f"the metanet in '{where}' has other tensors than '{name}' has here; train it again")
    net.load_state_dict({name: checkpoint[name] for name in shapes})
    return net.eval()


def _expect_no_larger(settings: Mapping[str, Any], values: int) -> None:
    """Refuse settings that a file cannot be of: a width, or a number of layers, is never above the number of its values.

    Raises:
        ValueError: one is.
    """
    for name, setting in settings.items():
        for one in setting if isinstance(setting, list) else [setting]:
            if isinstance(one, int) and abs(one) > values:
                raise ValueError(f"setting {name}={one!r}, but the file holds {values:,} values")


__all__ = [
    "BuiltFrom",
    "EquivariantMetaNet",
    "Family",
    "MetaNet",
    "build",
    "built_from",
    "load_metanet",
    "metanet",
    "metanets",
    "recipe_of",
    "save_metanet",
]
