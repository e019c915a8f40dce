"""A target: which tensors a generator makes, and which go into every network as they are."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.generation.fans import PLAIN, Fan, fans_of
from weightspace.dtypes import from_torch
from weightspace.errors import GenerationError, ShapeMismatchError
from weightspace.metanets.batch import WeightBatch
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict


@dataclass(frozen=True, eq=False)
class Target:
    """The networks of one architecture, as a generator sees them.

    Attributes:
        shapes: of the tensors that are made, by name; tied tensors once.
        constants: tensors that go into every network as they are: counters, and buffers of a module that is trained through its weights.
        spec: the symmetry of the architecture, where it is known.
        aliases: for the further names of tied tensors, the name of the one that is made.
        logarithms: tensors that are made as the logarithms of their values (see `norms`).
        fans: how the fan-in of a weight follows from its shape, where that is not as for most.
        dtypes: of the tensors of a network, where that is not float32, in which they are made.

    Example:
        >>> target = Target.of_module(nn.Linear(2, 3))
        >>> target.numel, target.tensors(torch.zeros(5, 9))["weight"].shape
        (9, torch.Size([5, 3, 2]))
    """

    shapes: Mapping[str, tuple[int, ...]]
    constants: Mapping[str, Tensor] = field(default_factory=dict)
    spec: SymmetrySpec | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    logarithms: frozenset[str] = frozenset()
    fans: Mapping[str, Fan] = field(default_factory=dict)
    dtypes: Mapping[str, torch.dtype] = field(default_factory=dict)

    @classmethod
    def of_module(cls, module: nn.Module, spec: SymmetrySpec | None = None) -> "Target":
        """All parameters of a module are made, tied ones once; its saved buffers are constants.

        Raises:
            GenerationError: the module has no parameters.
        """
        state = module.state_dict(keep_vars=True)
        owners: dict[int, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        aliases, constants = {}, {}
        for name, tensor in state.items():
            if isinstance(tensor, nn.Parameter):
                owner = owners.setdefault(id(tensor), name)
                if owner == name:
                    shapes[name] = tuple(tensor.shape)
                else:
                    aliases[name] = owner
            elif isinstance(tensor, Tensor):
                constants[name] = tensor.detach().clone()
        if not shapes:
            raise GenerationError(f"module {type(module).__name__} has no parameters, so there is nothing to generate; give one that has")
        return cls(shapes, constants, spec, aliases, fans=fans_of(module), dtypes=_dtypes(state, shapes))

    @classmethod
    def of_networks(cls, networks: WeightBatch, like: StateDict | None = None) -> "Target":
        """All float tensors of stacked networks are made, running statistics too.

        Args:
            networks: of one architecture.
            like: one of them, whole, in the dtypes that networks are to have; what it has besides is constant.
        """
        made = {name: tuple(tensor.shape[1:]) for name, tensor in networks.tensors.items()}
        spec = networks.spec
        aliases = {name: owner for name, owner in spec.aliases.items() if owner in made}
        rest = {} if like is None else {name: tensor.detach().clone() for name, tensor in like.items() if name not in {**made, **aliases}}
        fans = {} if networks.module is None else fans_of(networks.module)
        return cls(made, rest, spec, aliases, fans=fans, dtypes=_dtypes({**networks.tensors, **(like or {})}, made))

    @cached_property
    def numel(self) -> int:
        """Parameters that are made."""
        return sum(math.prod(shape) for shape in self.shapes.values())

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Parameters of each tensor, in order."""
        return tuple(math.prod(shape) for shape in self.shapes.values())

    def flat(self, tensors: Mapping[str, Tensor]) -> Float[Tensor, "*networks params"]:
        """Lay tensors, each with the same leading dimensions, into rows."""
        parts = [
            tensors[name].flatten(tensors[name].ndim - len(shape)) if shape else tensors[name][..., None]
            for name, shape in self.shapes.items()
        ]
        return torch.cat(parts, -1)

    def tensors(self, flat: Float[Tensor, "*networks params"]) -> dict[str, Tensor]:
        """Cut rows into tensors with the rows' leading dimensions.

        Raises:
            ShapeMismatchError: the rows are not as long as there are parameters.
        """
        if flat.shape[-1] != self.numel:
            raise ShapeMismatchError(f"rows of {flat.shape[-1]} values for {self.numel} parameters; give one value for each")
        parts = torch.split(flat, list(self.sizes), -1)
        return {name: part.reshape((*part.shape[:-1], *shape)) for part, (name, shape) in zip(parts, self.shapes.items(), strict=True)}

    def fan_in(self, name: str) -> float:
        """Of how many terms an output of the layer with this weight is a sum."""
        return self.fans.get(name, PLAIN).of_shape(self.shapes[name])

    def plain(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors as a network has them, where they were made as logarithms."""
        return {name: tensor.exp() if name in self.logarithms else tensor for name, tensor in tensors.items()}

    def cast(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors in the dtypes that those of a network have."""
        return {name: tensor.to(self.dtypes.get(name, torch.float32)) for name, tensor in tensors.items()}

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict of one network: what was made, plain, under all its names, and the constants that it does not itself give."""
        made = dict(tensors)
        constants = {name: tensor for name, tensor in self.constants.items() if name not in made}
        return made | {name: made[owner] for name, owner in self.aliases.items()} | constants

    def described(self) -> dict[str, Any]:
        """As JSON, the constants left out."""
        return {
            "shapes": [[name, list(shape)] for name, shape in self.shapes.items()],  # a list, since JSON objects are sorted
            "aliases": dict(self.aliases),
            "spec": None if self.spec is None else self.spec.to_yaml(),
            "logarithms": sorted(self.logarithms),
            "fans": {name: [fan.kind, fan.apart] for name, fan in self.fans.items()},
            "dtypes": {name: from_torch(str(dtype)).name for name, dtype in self.dtypes.items()},
        }


def _dtypes(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, torch.dtype]:
    """The dtypes of some tensors that are floats of another than 32 bits."""
    found = {name: tensors[name].dtype for name in names}
    return {name: dtype for name, dtype in found.items() if dtype.is_floating_point and dtype != torch.float32}


__all__ = ["Target"]
