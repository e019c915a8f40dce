"""The graph of an architecture: primitive operations as nodes, the flow of data as edges, and which node makes which tensor."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.errors import GenerationError

PRIMITIVES = (
    "max_pool", "avg_pool", "sep_conv", "dil_conv", "conv", "msa", "cse", "sum", "concat", "input", "bias", "bn", "ln", "pos_enc",
    "glob_avg", "class_layer", "class_bias",
)  # fmt: skip
"""Those of GHN-2; the layer that makes the outputs, and its bias, are primitives of their own here."""

Role = Literal["matrix", "scale", "shift", "position"]
ROLES: tuple[Role, ...] = ("matrix", "scale", "shift", "position")

Sizes = tuple[int, int, int, int]
"""Channels out and in, rows and columns of the kernel; 0 where there is no such size."""

FARTHEST = 50
"""Paths that are longer are none."""

MOST_NODES = 4096
"""Of a graph that a file tells: distances take the cube of it."""


@dataclass(frozen=True, eq=False)
class ArchitectureGraph:
    """What a network computes, without its weights.

    Attributes:
        primitives: of each node; data flows from earlier nodes to later ones.
        sizes: of the weight that a node stands for.
        edges: (source, target).
        tensors: for each parameter by name, the node that makes it and what it is there.
    """

    primitives: tuple[str, ...]
    sizes: tuple[Sizes, ...]
    edges: tuple[tuple[int, int], ...]
    tensors: Mapping[str, tuple[int, Role]]

    def __len__(self) -> int:
        return len(self.primitives)

    @cached_property
    def distances(self) -> Int[Tensor, "nodes nodes"]:
        """Edges on the shortest path from a node (row) to another; 0 where there is none, or one longer than `FARTHEST`."""
        step = self.adjacency.float()
        found, reached = torch.zeros(len(self), len(self), dtype=torch.long), torch.eye(len(self))
        for length in range(1, FARTHEST + 1):
            reached = (reached @ step).clamp(max=1)
            if not bool(reached.any()):
                break
            found[(reached > 0) & (found == 0)] = length
        return found

    @cached_property
    def adjacency(self) -> Int[Tensor, "nodes nodes"]:
        """1 where data flows straight from a node (row) to another."""
        made = torch.zeros(len(self), len(self), dtype=torch.long)
        for source, target in self.edges:
            made[source, target] = 1
        return made

    @cached_property
    def depths(self) -> tuple[int, ...]:
        """Edges on the longest path that leads to each node: no path joins nodes of one depth."""
        depths = [0] * len(self)
        for source, target in sorted(self.edges, key=lambda edge: edge[1]):
            depths[target] = max(depths[target], depths[source] + 1)
        return tuple(depths)

    def described(self, names: Sequence[str]) -> dict[str, Tensor]:
        """As tensors, the parameters in the order of their names."""
        return {
            "primitives": torch.tensor([PRIMITIVES.index(one) for one in self.primitives]),
            "sizes": torch.tensor(self.sizes),
            "edges": torch.tensor(self.edges, dtype=torch.long).reshape(-1, 2),
            "makers": torch.tensor([[self.tensors[name][0], ROLES.index(self.tensors[name][1])] for name in names]),
        }

    @classmethod
    def of(cls, names: Sequence[str], described: Mapping[str, Tensor]) -> "ArchitectureGraph":
        """The graph that `described` made tensors of.

        Raises:
            GenerationError: they are of no graph, or of one with more than `MOST_NODES`.
        """
        nodes = len(described["primitives"])
        if nodes > MOST_NODES:
            raise GenerationError(f"the generator's graph has {nodes:,} nodes, expected {MOST_NODES:,} at most; fit it again")
        beyond = {"primitives": [len(PRIMITIVES)], "edges": [nodes], "makers": [nodes, len(ROLES)]}
        held = [(described[key], described[key].new_tensor(ends)) for key, ends in beyond.items()]
        if not all(bool(((numbers >= 0) & (numbers < end)).all()) for numbers, end in held):
            raise GenerationError("the generator's graph speaks of nodes or primitives that there are none of; fit it again")
        told = {key: tensor.tolist() for key, tensor in described.items()}
        return cls(
            tuple(PRIMITIVES[one] for one in told["primitives"]),
            tuple((out, into, rows, columns) for out, into, rows, columns in told["sizes"]),
            tuple((source, target) for source, target in told["edges"]),
            {name: (node, ROLES[role]) for name, (node, role) in zip(names, told["makers"], strict=True)},
        )


def sizes_of(shape: Sequence[int]) -> Sizes:
    """A tensor's shape as channels and kernel; a kernel of one dimension is a row, of three and more their first are one."""
    match tuple(shape):
        case ():
            return (1, 0, 0, 0)
        case (channels,):
            return (channels, 0, 0, 0)
        case (out, into):
            return (out, into, 1, 1)
        case (out, into, *rows, columns):
            return (out, into, torch.Size(rows).numel(), columns)
    raise AssertionError(shape)


def virtual_weights(distances: Int[Tensor, "nodes nodes"], farthest: int) -> Float[Tensor, "nodes nodes"]:
    """What virtual edges weigh: one over the length of the shortest path, where that is over 1 and at most `farthest`."""
    return torch.where((distances > 1) & (distances <= farthest), 1 / distances.clamp(min=1), 0.0)


@lru_cache(maxsize=1)
def channel_sizes() -> tuple[int, ...]:
    """The channels that the shape encoder tells apart: each up to 16, then in steps of 8, 16 from 64 and 32 from 4096."""
    return (*range(1, 17), *range(24, 64, 8), *range(64, 4096, 16), *range(4096, 8193, 32))


__all__ = [
    "FARTHEST", "PRIMITIVES", "ROLES", "ArchitectureGraph", "Role", "Sizes", "channel_sizes", "sizes_of", "virtual_weights",
]  # fmt: skip
