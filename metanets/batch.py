"""Weights of many networks as a metanet reads them: stacked where the architecture is one, grouped by it where there are several."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from weightspace import dtypes
from weightspace.checkpoint import Checkpoint
from weightspace.errors import ShapeMismatchError, SymmetryError
from weightspace.metanets.layout import Layout
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict


@dataclass(frozen=True, eq=False)
class WeightBatch:
    """Networks of one architecture, stacked.

    Attributes:
        layout: of the architecture.
        tensors: (networks, *shape) by tensor name, floats; tied tensors once.
        module: the architecture as a module, for metanets that run the networks; its own weights do not matter.
    """

    layout: Layout
    tensors: Mapping[str, Tensor]
    module: nn.Module | None = None

    @classmethod
    def stack(
        cls,
        networks: Sequence[Checkpoint | StateDict],
        spec: SymmetrySpec | Layout,
        *,
        module: nn.Module | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "WeightBatch":
        """Stack the weights of networks.

        Args:
            networks: at least one, each with every tensor of the spec.
            spec: of their architecture.
            module: see the class.
            dtype: of the stacked tensors. Tensors of integers (counters and the like) are left out.

        Raises:
            SymmetryError: there is no network, or one that the spec is not of; or a tensor holds floats in some and integers in others.
            ShapeMismatchError: a tensor has another shape.

        Example:
            >>> spec = SymmetrySpec.parse({"fc.bias": "h"}, sizes={"h": 2})
            >>> WeightBatch.stack([{"fc.bias": torch.ones(2)}], spec)
            <WeightBatch: 1 network of 2 parameters>
        """
        layout = Layout.of(spec)
        if not networks:
            raise SymmetryError("no networks to stack; give at least one state dict or Checkpoint")
        for network in networks:
            layout.spec.check(network)
        names = [name for name in layout.spec.tensors if _is_float(networks[0], name)]
        if not names:
            raise SymmetryError("the networks hold integers alone, which are no weights; give networks with floats")
        for at, network in enumerate(networks):
            odd = next((name for name in layout.spec.tensors if _is_float(network, name) != (name in names)), None)
            if odd is not None:
                raise SymmetryError(
                    f"tensor '{odd}' holds floats in some of the networks and other numbers in others, as network {at}; "
                    "read quantised networks apart, or expand them first"
                )
        if len(names) < len(layout.spec.tensors):
            layout = Layout(layout.spec, tuple(slot for slot in layout.slots if slot.tensor in names))
        return cls(layout, {name: torch.stack([network[name].to(dtype) for network in networks]) for name in names}, module)

    @property
    def spec(self) -> SymmetrySpec:
        """The spec of the architecture, inputs and outputs named."""
        return self.layout.spec

    @cached_property
    def slots(self) -> Mapping[str, Tensor]:
        """(networks, *sizes of the groups, cells) by slot key."""
        return self.layout.unfold(self.tensors)

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, at: slice | Int[Tensor, " chosen"]) -> "WeightBatch":
        """Some of the networks."""
        return replace(self, tensors={name: tensor[at] for name, tensor in self.tensors.items()})

    @property
    def num_params(self) -> int:
        """Parameters of one network."""
        return sum(tensor[0].numel() for tensor in self.tensors.values())

    def to(self, to: torch.device | torch.dtype | str) -> "WeightBatch":
        """The same networks on another device or in another dtype."""
        return replace(self, tensors={name: tensor.to(to) for name, tensor in self.tensors.items()})

    def is_finite(self) -> Bool[Tensor, " networks"]:
        """Whether all parameters of a network are finite, network by network."""
        return torch.stack([tensor.reshape(len(tensor), -1).isfinite().all(1) for tensor in self.tensors.values()]).all(0)

    def flat(self) -> Float[Tensor, "networks params"]:
        """All parameters of each network in one row."""
        return torch.cat([tensor.reshape(len(tensor), -1) for tensor in self.tensors.values()], 1)

    def __repr__(self) -> str:
        count = len(self)
        return f"<WeightBatch: {count} network{'s' * (count != 1)} of {self.num_params:,} parameters>"


def _is_float(network: Checkpoint | StateDict, name: str) -> bool:
    return dtypes.dtype(network.info[name].dtype).is_float if isinstance(network, Checkpoint) else network[name].is_floating_point()


@dataclass(frozen=True, eq=False)
class WeightSet:
    """Networks of any architectures, in an order of their own.

    Attributes:
        batches: the networks of each architecture.
        places: for each batch, where its networks stand in the order.
    """

    batches: tuple[WeightBatch, ...]
    places: tuple[Tensor, ...]

    @classmethod
    def of(
        cls,
        networks: Sequence[Checkpoint | StateDict],
        specs: SymmetrySpec | Sequence[SymmetrySpec],
        *,
        modules: Sequence[nn.Module] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> "WeightSet":
        """Group networks by their specs.

        Args:
            networks: state dicts or Checkpoints.
            specs: one for all, or one for each.
            modules: the module of each network, for metanets that run them. Networks of one spec that share a module are stacked:
                equal specs may go with other activations, so give one module object to those that it is right for.
            dtype: of the stacked tensors.

        Raises:
            SymmetryError: no networks, or not as many specs or modules.
            ShapeMismatchError: a tensor does not have the shape that its spec says.
        """
        each = [specs] * len(networks) if isinstance(specs, SymmetrySpec) else list(specs)
        if len(each) != len(networks):
            raise SymmetryError(f"{len(networks)} networks but {len(each)} specs; give one spec for each network, or one for all")
        if modules is not None and len(modules) != len(networks):
            raise SymmetryError(f"{len(networks)} networks but {len(modules)} modules; give one for each network")
        members: dict[tuple[SymmetrySpec, nn.Module | None], list[int]] = {}
        for at, spec in enumerate(each):
            members.setdefault((spec, modules[at] if modules else None), []).append(at)
        batches = [
            WeightBatch.stack([networks[at] for at in found], spec, module=module, dtype=dtype) for (spec, module), found in members.items()
        ]
        return cls.grouped(batches, [torch.tensor(found) for found in members.values()])

    @classmethod
    def grouped(cls, batches: Sequence[WeightBatch], places: Sequence[Tensor] | None = None) -> "WeightSet":
        """Put batches together, one after another unless `places` says where their networks stand.

        Raises:
            SymmetryError: there are none.
            ShapeMismatchError: a batch has not as many networks as places.
        """
        if not batches:
            raise SymmetryError("no networks in the set; give at least one")
        if places is None:
            ends = torch.tensor([0, *(len(batch) for batch in batches)]).cumsum(0)
            places = [torch.arange(int(ends[k]), int(ends[k + 1])) for k in range(len(batches))]
        for batch, place in zip(batches, places, strict=True):
            if len(batch) != len(place):
                raise ShapeMismatchError(f"a batch of {len(batch)} networks has {len(place)} places; give one place for each")
        return cls(tuple(batches), tuple(places))

    def __len__(self) -> int:
        return sum(len(place) for place in self.places)

    def take(self, at: Int[Tensor, " chosen"]) -> "WeightSet":
        """Some of the networks, in the order asked for."""
        where = torch.full((len(self),), -1)
        where[at] = torch.arange(len(at))
        batches, places = [], []
        for batch, place in zip(self.batches, self.places, strict=True):
            chosen = where[place]
            kept = (chosen >= 0).nonzero()[:, 0]
            if len(kept):
                batches.append(batch[kept])
                places.append(chosen[kept])
        return WeightSet.grouped(batches, places)

    def gather(self, values: Sequence[Tensor]) -> Shaped[Tensor, "total ..."]:
        """Lay what was made of each batch into the order of the set."""
        first = values[0]
        out = first.new_empty((len(self), *first.shape[1:]))
        return out.index_copy(0, torch.cat(self.places).to(first.device), torch.cat(list(values)))

    def to(self, to: torch.device | torch.dtype | str) -> "WeightSet":
        """The same networks on another device or in another dtype."""
        return replace(self, batches=tuple(batch.to(to) for batch in self.batches))

    def networks(self) -> Iterator[tuple[WeightBatch, int]]:
        """Each network in order, as a batch and its place in it."""
        found = sorted((int(p), k, j) for k, place in enumerate(self.places) for j, p in enumerate(place))
        return ((self.batches[k], j) for _, k, j in found)

    def __repr__(self) -> str:
        count, kinds = len(self), len(self.batches)
        return f"<WeightSet: {count} network{'s' * (count != 1)} of {kinds} architecture{'s' * (kinds != 1)}>"


__all__ = ["WeightBatch", "WeightSet"]
