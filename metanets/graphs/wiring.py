"""The wiring of an architecture: what its nodes stand for, and which two nodes each of its weights joins."""

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, lru_cache
from typing import Any, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from weightspace.axes import Fixed
from weightspace.metanets.layout import Layout, Slot
from weightspace.spec import Continuous

NODES = ("neuron", "parameter", "network", "joint")
"""What a node stands for: a member of a neuron group; all the values of a slot with one tip; the network; a pair of members."""

SYMMETRIES = get_args(Continuous)
SIDES = ("both", "read", "made", "neither")
"""How weights touch a group: one that is only read is an input, one that is only made an output."""

KINDS = ("weight", "bias", "gain", "shift", "mean", "variance", "embedding")
"""Kinds of slots that go by many names; any other kind has a code by its name, one of `OTHER_KINDS`."""

OTHER_KINDS = 57
ROLES = ("other", "q", "k", "v", "o", "qkv", "gate", "up", "down")
PARTS = 32
"""Parts of a tensor are counted modulo this."""

SHAPE_AXES = 3
"""A kernel has up to three axes; of more, the first ones are joined."""

_SYNONYMS = {
    "kernel": "weight",
    "gamma": "gain",
    "scale": "gain",
    "beta": "shift",
    "running_mean": "mean",
    "moving_mean": "mean",
    "running_var": "variance",
    "moving_variance": "variance",
    "embeddings": "embedding",
}


@dataclass(frozen=True)
class Place:
    """Nodes that stand side by side, one for each combination of indices.

    Attributes:
        kind: one of `NODES`.
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


@dataclass(frozen=True)
class Codes:
    """What is known of nodes and slots besides the values of weights.

    Attributes:
        node_code: (nodes, 3): index in `NODES`, `SYMMETRIES` and `SIDES`.
        node_order: (nodes,): place in a group whose order means something, else -1.
        node_size: (nodes,): how many members the group has.
        node_depth: (nodes, 2): depth (see `Place`) and number of layers.
        slot_code: (slots, 4): kind, index in `ROLES`, part modulo `PARTS`, and number of tips, 3 for more.
        slot_depth: (slots, 2): depth of the layer, from 0, and number of layers.
        slot_exponents: (slots, 2): the power with which a scale or sign of the source acts, and of the target; 0 where none does.
        slot_cells: (slots, 3): shape of the cells.
        slot_fan: (slots,): values that enter one node by the slot.
    """

    node_code: Int[Tensor, "nodes 3"]
    node_order: Int[Tensor, " nodes"]
    node_size: Int[Tensor, " nodes"]
    node_depth: Int[Tensor, "nodes 2"]
    slot_code: Int[Tensor, "slots 4"]
    slot_depth: Int[Tensor, "slots 2"]
    slot_exponents: Int[Tensor, "slots 2"]
    slot_cells: Int[Tensor, "slots 3"]
    slot_fan: Int[Tensor, " slots"]

    @classmethod
    def of(cls, data: Any) -> "Codes":
        """Take them out of a torch_geometric `Data` or `Batch`."""
        return cls(**{field.name: data[field.name] for field in fields(cls)})

    def to(self, device: torch.device | str) -> "Codes":
        """The same on another device."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})


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
        ends = [torch.stack([_numbers(self.places[at], wire.shape, dims) for at, dims in _ends(wire)]) for wire in self.wires]
        return torch.cat(ends, 1)

    @cached_property
    def parent_index(self) -> Int[Tensor, "2 links"]:
        """Child and parent of every link."""
        ends = [torch.empty(2, 0, dtype=torch.long)]
        for link in self.links:
            child = self.places[link.child]
            ends.append(
                torch.stack(
                    [_numbers(child, child.shape, range(len(child.shape))), _numbers(self.places[link.parent], child.shape, link.dims)]
                )
            )
        return torch.cat(ends, 1)

    @cached_property
    def codes(self) -> Codes:
        """Codes of nodes and slots."""
        repeats = torch.tensor([place.size for place in self.places])
        layers = self.layout.depth
        norms = {wire.slot.depth for wire in self.wires if len(wire.slot.tips) == 1 and _word(wire.slot) in ("weight", "gain")}
        return Codes(
            node_code=torch.tensor([self._node_code(at) for at in range(len(self.places))]).repeat_interleave(repeats, 0),
            node_order=torch.cat([self._order(place) for place in self.places]),
            node_size=torch.tensor([place.shape[-1] if place.shape else 1 for place in self.places]).repeat_interleave(repeats),
            node_depth=torch.tensor([[place.depth, layers] for place in self.places]).repeat_interleave(repeats, 0),
            slot_code=torch.tensor([_slot_code(wire.slot, wire.slot.depth in norms) for wire in self.wires]),
            slot_depth=torch.tensor([[wire.slot.depth, layers] for wire in self.wires]),
            slot_exponents=torch.tensor([[_exponent(wire.slot, dims) for _, dims in _ends(wire)] for wire in self.wires]),
            slot_cells=torch.tensor([wire.cells for wire in self.wires]),
            slot_fan=torch.tensor([_fan(wire) for wire in self.wires]),
        )

    def _node_code(self, at: int) -> list[int]:
        place = self.places[at]
        wires = [wire for wire in self.wires if len(wire.slot.tips) > 1]
        # a pair stands for its members: what reads or makes it reads or makes them
        stands = {at, *(link.child for link in self.links if link.parent == at and self.places[link.child].kind == "joint")}
        is_read, is_made = any(wire.source in stands for wire in wires), any(wire.target in stands for wire in wires)
        side = {(True, True): "both", (True, False): "read", (False, True): "made", (False, False): "neither"}[is_read, is_made]
        symmetry = "none" if place.group is None else self.layout.groups[place.group].symmetry
        return [NODES.index(place.kind), SYMMETRIES.index(symmetry), SIDES.index(side)]

    def _order(self, place: Place) -> Int[Tensor, " nodes"]:
        """The order of a place's members where it means something."""
        if place.group is None or not self.layout.has_identity(place.group):
            return torch.full((place.size,), -1)
        return torch.arange(place.shape[-1]).repeat(math.prod(place.shape[:-1]))


def _ends(wire: Wire) -> tuple[tuple[int, tuple[int, ...]], tuple[int, tuple[int, ...]]]:
    return (wire.source, wire.source_dims), (wire.target, wire.target_dims)


def _numbers(place: Place, shape: Sequence[int], dims: Sequence[int]) -> Int[Tensor, " indices"]:
    """The node of a place for each index of a shape, some dimensions of which index it."""
    found = torch.full(tuple(shape), place.start)
    for j, dim in enumerate(dims):
        stride = math.prod(place.shape[j + 1 :])
        found = found + stride * torch.arange(shape[dim]).view(-1, *(1 for _ in shape[dim + 1 :]))
    return found.flatten()


@lru_cache(maxsize=64)
def _wiring(layout: Layout) -> Wiring:
    places: list[Place] = []
    links: list[Link] = []

    def add(kind: str, shape: tuple[int, ...], depth: int, group: str | None = None) -> int:
        start = places[-1].start + places[-1].size if places else 0
        places.append(Place(kind, shape, start, depth, group))
        return len(places) - 1

    made: dict[str, int] = {}
    for slot in layout.slots:
        for tip in slot.tips:
            if len(slot.tips) > 1 and tip not in slot.sources:
                made.setdefault(slot.groups[tip], slot.depth + 1)
    at = {name: add("neuron", layout.node_shape(name), made.get(name, 0), name) for name in layout.groups}
    for name, group in layout.groups.items():
        if group.per is not None:
            links.append(Link(at[name], at[group.per], tuple(range(len(layout.node_shape(group.per))))))

    def end(slot: Slot, tips: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        """The place where the edges of a slot end on one side, with the dimensions that index it."""
        if len(tips) == 1:
            return at[slot.groups[tips[0]]], slot.chain(tips[0])
        dims = tuple(sorted({j for tip in tips for j in slot.chain(tip)}))
        joint = add("joint", tuple(layout.shape(slot)[j] for j in dims), slot.depth)
        for tip in tips:
            links.append(Link(joint, at[slot.groups[tip]], tuple(dims.index(j) for j in slot.chain(tip))))
        return joint, dims

    wires = []
    for slot in layout.slots:
        read = [tip for tip in slot.tips if tip in slot.sources]
        kept = [tip for tip in slot.tips if tip not in slot.sources]
        source = end(slot, read) if read else (add("parameter", (), slot.depth), ())
        if not kept:
            if "network" not in at:
                at["network"] = add("network", (), 0)
            target: tuple[int, tuple[int, ...]] = at["network"], ()
        else:
            target = end(slot, kept)
        wires.append(Wire(slot, layout.shape(slot)[:-1], _cells(layout, slot), source[0], target[0], source[1], target[1]))
    return Wiring(layout, tuple(places), tuple(wires), tuple(links))


def _cells(layout: Layout, slot: Slot) -> tuple[int, ...]:
    sizes = [term.size for term in layout.spec.layout(slot.tensor)[slot.part].terms if isinstance(term, Fixed)]
    sizes = [1] * (SHAPE_AXES - len(sizes)) + sizes
    return (math.prod(sizes[: 1 - SHAPE_AXES]), *sizes[1 - SHAPE_AXES :])


def _word(slot: Slot) -> str:
    """What a slot is, without the counters of recurrent layers and the many names of one thing."""
    word = re.sub(r"_l\d+|\d+$|:0$", "", slot.kind)
    return _SYNONYMS.get(word, word)


def _slot_code(slot: Slot, of_norm: bool) -> list[int]:
    word = _word(slot)
    if of_norm and len(slot.tips) == 1:
        word = {"weight": "gain", "bias": "shift"}.get(word, word)
    kind = KINDS.index(word) if word in KINDS else len(KINDS) + zlib.crc32(word.encode()) % OTHER_KINDS
    return [kind, ROLES.index(slot.role) if slot.role in ROLES else 0, slot.part % PARTS, min(3, len(slot.tips))]


def _exponent(slot: Slot, dims: Sequence[int]) -> int:
    tips = [dim for dim in dims if dim in slot.tips]
    return slot.exponents[tips[0]] if len(tips) == 1 else 0


def _fan(wire: Wire) -> int:
    entering = math.prod(size for j, size in enumerate(wire.shape) if j not in wire.target_dims)
    return max(1, entering * wire.slot.cells)


__all__ = [
    "KINDS",
    "NODES",
    "OTHER_KINDS",
    "PARTS",
    "ROLES",
    "SHAPE_AXES",
    "SIDES",
    "SYMMETRIES",
    "Codes",
    "Link",
    "Place",
    "Wire",
    "Wiring",
]
