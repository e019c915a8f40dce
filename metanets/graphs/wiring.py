"""The wiring of an architecture: what its nodes stand for, and which two nodes each of its weights joins."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from jaxtyping import Int
from torch import Tensor

from weightspace.axes import Fixed
from weightspace.metanets.layout import Layout, Slot

KEPT = 256
"""Architectures whose wiring and codes are remembered."""

SHAPE_AXES = 3
"""A kernel has up to three axes; of more, the first ones are joined."""


End = tuple[int, tuple[int, ...]]
"""A place, by its number, with the dimensions of a slot that index its shape."""


@dataclass(frozen=True)
class Place:
    """Nodes that stand side by side, one for each combination of indices.

    Attributes:
        kind: `neuron`, `parameter`, `network` or `joint` (see `weightspace.metanets.graphs.codes.NODES`).
        shape: of the nodes: a group's parents, outermost first, and the group itself.
        start: the first one's number among all nodes.
        depth: of the first layer that makes them, counted from 1; 0 for inputs. Of what is no neuron, that of its layer.
        group: the neuron group, where there is one.
    """

    kind: str
    shape: tuple[int, ...]
    start: int
    depth: int
    group: str | None = None

    @property
    def size(self) -> int:
        """How many nodes."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Wire:
    """The edges of one slot: one for each index of its dimensions, in row-major order.

    Attributes:
        slot: whose cells are the edges' values.
        shape: of the edges: the sizes of the slot's dimensions.
        cells: the shape of the cells, always three axes.
        source: the place that the edges leave, by its number.
        target: the place that they enter.
        source_dims: the dimensions of the slot that index the source's shape, in its order.
        target_dims: the same for the target.
    """

    slot: Slot
    shape: tuple[int, ...]
    cells: tuple[int, ...]
    source: int
    target: int
    source_dims: tuple[int, ...]
    target_dims: tuple[int, ...]

    @property
    def ends(self) -> tuple["End", "End"]:
        """Source and target, each with the dimensions that index it."""
        return (self.source, self.source_dims), (self.target, self.target_dims)


@dataclass(frozen=True)
class Link:
    """Which parent's node each node belongs to: a channel to its head, a pair to each of its two members.

    Attributes:
        child: a place, by its number.
        parent: another one.
        dims: the dimensions of the child's shape that index the parent's, in its order.
    """

    child: int
    parent: int
    dims: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Wiring:
    """Nodes and edges of an architecture, without values; made once for each layout.

    Attributes:
        layout: of the architecture.
        places: neurons first.
        wires: one for each slot, in the layout's order.
        links: from groups to those that they are `per`, and from pairs to their members.
    """

    layout: Layout
    places: tuple[Place, ...]
    wires: tuple[Wire, ...]
    links: tuple[Link, ...]

    @classmethod
    def of(cls, layout: Layout) -> "Wiring":
        """Wire up an architecture; the same layout has the same wiring."""
        return _wiring(layout)

    @property
    def num_nodes(self) -> int:
        """Nodes of one network."""
        return self.places[-1].start + self.places[-1].size

    @cached_property
    def edge_index(self) -> Int[Tensor, "2 edges"]:
        """Source and target of every edge, wire by wire."""
        ends = [torch.stack([_numbers(self.places[at], wire.shape, dims) for at, dims in wire.ends]) for wire in self.wires]
        return torch.cat(ends, 1)

    @cached_property
    def parent_index(self) -> Int[Tensor, "2 links"]:
        """Child and parent of every link."""
        ends = [torch.empty(2, 0, dtype=torch.long)]
        for link in self.links:
            child, parent = self.places[link.child], self.places[link.parent]
            ends.append(torch.stack([child.start + torch.arange(child.size), _numbers(parent, child.shape, link.dims)]))
        return torch.cat(ends, 1)


def _numbers(place: Place, shape: Sequence[int], dims: Sequence[int]) -> Int[Tensor, " indices"]:
    """The node of a place for each index of a shape, some dimensions of which index it."""
    found = torch.full(tuple(shape), place.start)
    for j, dim in enumerate(dims):
        stride = math.prod(place.shape[j + 1 :])
        found = found + stride * torch.arange(shape[dim]).view(-1, *(1 for _ in shape[dim + 1 :]))
    return found.flatten()


@lru_cache(maxsize=KEPT)
def _wiring(layout: Layout) -> Wiring:
    builder = _Builder(layout)
    wires = tuple(builder.wire(slot) for slot in layout.slots)
    return Wiring(layout, tuple(builder.places), wires, tuple(builder.links))


class _Builder:
    """Places and links as they are found: first all neurons, then what the slots need besides."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.places: list[Place] = []
        self.links: list[Link] = []
        depth: dict[str, int] = {}
        for slot in layout.slots:
            for tip in slot.tips:
                if len(slot.tips) > 1 and tip not in slot.sources:
                    depth.setdefault(slot.groups[tip], slot.depth + 1)
        self.at = {name: self.add("neuron", layout.node_shape(name), depth.get(name, 0), name) for name in layout.groups}
        for name, group in layout.groups.items():
            if group.per is not None:
                self.links.append(Link(self.at[name], self.at[group.per], tuple(range(len(layout.node_shape(group.per))))))

    def add(self, kind: str, shape: tuple[int, ...], depth: int, group: str | None = None) -> int:
        """A new place; its number."""
        start = self.places[-1].start + self.places[-1].size if self.places else 0
        self.places.append(Place(kind, shape, start, depth, group))
        return len(self.places) - 1

    def wire(self, slot: Slot) -> Wire:
        """The edges of a slot."""
        read = [tip for tip in slot.tips if tip in slot.sources]
        made = [tip for tip in slot.tips if tip not in slot.sources]
        source = self._end(slot, read) if read else (self.add("parameter", (), slot.depth), ())
        target = self._end(slot, made) if made else (self._network(), ())
        return Wire(slot, self.layout.shape(slot)[:-1], _cells(self.layout, slot), source[0], target[0], source[1], target[1])

    def _network(self) -> int:
        """The node that stands for the network, of which there is one at most."""
        found = next((number for number, place in enumerate(self.places) if place.kind == "network"), None)
        return self.add("network", (), 0) if found is None else found

    def _end(self, slot: Slot, tips: Sequence[int]) -> End:
        """Where the edges of a slot end on one side: at neurons, or where several groups meet there, at their pairs."""
        if len(tips) == 1:
            return self.at[slot.groups[tips[0]]], slot.chain(tips[0])
        dims = tuple(sorted({j for tip in tips for j in slot.chain(tip)}))
        joint = self.add("joint", tuple(self.layout.shape(slot)[j] for j in dims), slot.depth)
        for tip in tips:
            self.links.append(Link(joint, self.at[slot.groups[tip]], tuple(dims.index(j) for j in slot.chain(tip))))
        return joint, dims


def _cells(layout: Layout, slot: Slot) -> tuple[int, ...]:
    sizes = [term.size for term in layout.spec.layout(slot.tensor)[slot.part].terms if isinstance(term, Fixed)]
    sizes = [1] * (SHAPE_AXES - len(sizes)) + sizes
    return (math.prod(sizes[: 1 - SHAPE_AXES]), *sizes[1 - SHAPE_AXES :])


__all__ = ["KEPT", "SHAPE_AXES", "End", "Link", "Place", "Wire", "Wiring"]
