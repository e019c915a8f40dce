"""Codes: what the nodes and slots of a graph are, as integers that mean the same in every architecture."""

import math
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from weightspace.metanets.graphs.wiring import KEPT, Place, Wire, Wiring
from weightspace.metanets.layout import Slot
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
    def of(cls, wiring: Wiring) -> "Codes":
        """Find the codes of an architecture; the same wiring has the same ones."""
        return _codes(wiring)

    @classmethod
    def in_graph(cls, data: Any) -> "Codes":
        """Take them out of a torch_geometric `Data` or `Batch`."""
        return cls(**{field.name: data[field.name] for field in fields(cls)})

    def to(self, device: torch.device | str) -> "Codes":
        """The same on another device."""
        return replace(self, **{field.name: getattr(self, field.name).to(device) for field in fields(self)})


@lru_cache(maxsize=KEPT)
def _codes(wiring: Wiring) -> Codes:
    repeats = torch.tensor([place.size for place in wiring.places])
    layers = wiring.layout.depth
    norms = {wire.slot.depth for wire in wiring.wires if len(wire.slot.tips) == 1 and _word(wire.slot) in ("weight", "gain")}
    return Codes(
        node_code=torch.tensor([_node_code(wiring, at) for at in range(len(wiring.places))]).repeat_interleave(repeats, 0),
        node_order=torch.cat([_order(wiring, place) for place in wiring.places]),
        node_size=torch.tensor([place.shape[-1] if place.shape else 1 for place in wiring.places]).repeat_interleave(repeats),
        node_depth=torch.tensor([[place.depth, layers] for place in wiring.places]).repeat_interleave(repeats, 0),
        slot_code=torch.tensor([_slot_code(wire.slot, wire.slot.depth in norms) for wire in wiring.wires]),
        slot_depth=torch.tensor([[wire.slot.depth, layers] for wire in wiring.wires]),
        slot_exponents=torch.tensor([[_exponent(wire.slot, dims) for _, dims in wire.ends] for wire in wiring.wires]),
        slot_cells=torch.tensor([wire.cells for wire in wiring.wires]),
        slot_fan=torch.tensor([_fan(wire) for wire in wiring.wires]),
    )


def _node_code(wiring: Wiring, at: int) -> list[int]:
    place = wiring.places[at]
    wires = [wire for wire in wiring.wires if len(wire.slot.tips) > 1]
    # a pair stands for its members: what reads or makes it reads or makes them
    stands = {at, *(link.child for link in wiring.links if link.parent == at and wiring.places[link.child].kind == "joint")}
    is_read, is_made = any(wire.source in stands for wire in wires), any(wire.target in stands for wire in wires)
    side = {(True, True): "both", (True, False): "read", (False, True): "made", (False, False): "neither"}[is_read, is_made]
    symmetry = "none" if place.group is None else wiring.layout.groups[place.group].symmetry
    return [NODES.index(place.kind), SYMMETRIES.index(symmetry), SIDES.index(side)]


def _order(wiring: Wiring, place: Place) -> Int[Tensor, " nodes"]:
    """The order of a place's members where it means something."""
    if place.group is None or not wiring.layout.has_identity(place.group):
        return torch.full((place.size,), -1)
    return torch.arange(place.shape[-1]).repeat(math.prod(place.shape[:-1]))


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


__all__ = ["KINDS", "NODES", "OTHER_KINDS", "PARTS", "ROLES", "SIDES", "SYMMETRIES", "Codes"]
