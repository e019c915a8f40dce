"""A weight generator: a model of weights, registered by a decorator in a file of its own, fitted once and drawn from."""

import abc
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.target import Target
from weightspace.errors import GenerationError
from weightspace.registry import Registry

Learns = Literal["networks", "tasks"]
Takes = Literal["condition", "size", "architecture"]
Progress = Callable[[int, int], None]
"""Is told how many steps are done, and of how many."""


@dataclass(frozen=True, eq=False)
class Wish:
    """What a network that is asked for should be, where that is not what the generator was fitted on.

    Attributes:
        condition: of the shape of those that it was fitted on; one for all networks, or one for each of them as a first dimension.
        target: of another size or architecture; its spec tells the sizes of the groups.
        module: of that architecture, for generators that look at the graph.
        like: the recipe of a network of that architecture, so that those that are made can be run.
    """

    condition: Tensor | None = None
    target: Target | None = None
    module: nn.Module | None = None
    like: Mapping[str, Any] | None = None


class WeightGenerator(nn.Module, abc.ABC):
    """A model of weights.

    Attributes:
        target: of the networks that it was made for.
        recipe: how it was made, set by `fit`.
        parents: ids of the checkpoints that it was fitted on.
        family: what it is registered as.
    """

    family: ClassVar["Kind"]

    def __init__(self, target: Target, condition_shape: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.target = target
        self.condition_shape = condition_shape
        self.recipe: Mapping[str, Any] = {}
        self.parents: tuple[str, ...] = ()

    @abc.abstractmethod
    def learn(self, material: Material, *, generator: torch.Generator, progress: Progress) -> None:
        """Fit it to the material; called once, on the instance that `fit` has just built.

        Raises:
            GenerationError: the material cannot be learned from.
        """

    @abc.abstractmethod
    def sample(self, count: int, wish: Wish, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw networks: for each tensor of the target (the wish's where it has one), (count, *shape)."""


@dataclass(frozen=True)
class Kind:
    """A registered kind of generator.

    Attributes:
        name: that it is made by.
        make: its class, called with the target and the shape of a condition (or None), then settings by keyword.
        learns: what its material must hold: `networks`, `tasks`, or both.
        takes: what a wish may say: a `condition`, another `size`, another `architecture`.
        reference: paper, with arXiv id.
    """

    name: str
    make: Callable[..., WeightGenerator]
    learns: frozenset[Learns]
    takes: frozenset[Takes] = field(default_factory=frozenset)
    reference: str = ""

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.make) or "").partition("\n")[0]

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings with their defaults."""
        parameters = inspect.signature(self.make).parameters.values()
        return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}

    def expect_conditions(self) -> None:
        """See that it can be fitted with conditions.

        Raises:
            GenerationError: it takes none.
        """
        if "condition" not in self.takes:
            raise GenerationError(f"generator '{self.name}' takes no conditions; leave them out, or choose another generator")


generators: Registry[Kind] = Registry("generator", "weightspace.analysis.generation.generators")


def weight_generator(
    name: str, *, learns: Sequence[Learns], takes: Sequence[Takes] = (), reference: str = ""
) -> Callable[[type[WeightGenerator]], type[WeightGenerator]]:
    """Register a class as a kind of generator.

    Args:
        name: to make it by.
        learns: see `Kind`.
        takes: see `Kind`.
        reference: paper, with arXiv id.
    """

    def register(make: type[WeightGenerator]) -> type[WeightGenerator]:
        make.family = generators.add(name, Kind(name, make, frozenset(learns), frozenset(takes), reference))
        return make

    return register


__all__ = ["Kind", "Progress", "WeightGenerator", "Wish", "generators", "weight_generator"]
