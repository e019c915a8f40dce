"""Networks as graphs in two forms that take the same steps: stacked slots (dense) and edge lists (sparse)."""

import abc
import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.metanets.batch import WeightBatch
from weightspace.metanets.graphs.codes import Codes
from weightspace.metanets.graphs.wiring import Link, Wiring

if TYPE_CHECKING:
    from torch_geometric.data import Batch

Reduction = Literal["mean", "sum", "max", "min"]
Edges = list[Tensor]
"""Features of edges in parts, each with the cells of one shape: (..., channels)."""


class Graphs(abc.ABC):
    """Networks as graphs. A metanet written in these steps runs on both forms and gives the same.

    Features of nodes are one tensor, (..., nodes, channels); features of edges are a list, one tensor for each part. What is brought
    to edges may broadcast: (networks, out, 1, channels), so that it is added to features of edges instead of being joined to them.

    Attributes:
        codes: of nodes and slots.
        values: (..., cells) of each part.
        cells: the shape of the cells of each part: three axes.
        num_networks: how many.
    """

    codes: Codes
    values: Edges
    cells: Sequence[tuple[int, ...]]
    num_networks: int

    @abc.abstractmethod
    def nodes(self, features: Float[Tensor, "nodes channels"]) -> Tensor:
        """Features that follow from the codes of nodes, for every network."""

    @abc.abstractmethod
    def from_slots(self, features: Float[Tensor, "slots channels"]) -> Edges:
        """Each edge's slot's features, broadcast."""

    @abc.abstractmethod
    def from_sources(self, nodes: Tensor) -> Edges:
        """Each edge's source's features, broadcast."""

    @abc.abstractmethod
    def from_targets(self, nodes: Tensor) -> Edges:
        """Each edge's target's features, broadcast."""

    @abc.abstractmethod
    def to_targets(self, edges: Edges, how: Reduction = "mean") -> Tensor:
        """Reduce over the edges that enter a node, each with equal weight whatever slot it is of; 0 where none does."""

    @abc.abstractmethod
    def to_sources(self, edges: Edges, how: Reduction = "mean") -> Tensor:
        """Reduce over the edges that leave a node."""

    @property
    @abc.abstractmethod
    def has_links(self) -> bool:
        """Whether any node has a parent."""

    @abc.abstractmethod
    def to_parents(self, nodes: Tensor) -> Tensor:
        """Mean over a node's children (the channels of a head); 0 where it has none."""

    @abc.abstractmethod
    def to_children(self, nodes: Tensor) -> Tensor:
        """Mean over a node's parents (the head of a channel); 0 where it has none."""

    @abc.abstractmethod
    def mean_of_edges(self, edges: Edges) -> Float[Tensor, "networks channels"]:
        """Mean over all edges of each network."""

    @abc.abstractmethod
    def mean_of_nodes(self, nodes: Tensor) -> Float[Tensor, "networks channels"]:
        """Mean over all nodes of each network."""


class DenseGraphs(Graphs):
    """Networks of one architecture: a part for each slot, (networks, *sizes of the groups, channels); nodes (networks, nodes, channels)."""

    def __init__(self, batch: WeightBatch) -> None:
        """Take the slots of a batch."""
        self.wiring = Wiring.of(batch.layout)
        self.values = [batch.slots[wire.slot.key] for wire in self.wiring.wires]
        self.cells = [wire.cells for wire in self.wiring.wires]
        self.num_networks = len(batch)
        self.codes = Codes.of(self.wiring).to(self.values[0].device)

    def nodes(self, features: Float[Tensor, "nodes channels"]) -> Tensor:
        """(networks, nodes, channels)."""
        return features.expand(self.num_networks, *features.shape)

    def from_slots(self, features: Float[Tensor, "slots channels"]) -> Edges:
        """One (channels,) a slot."""
        return list(features.unbind())

    def from_sources(self, nodes: Tensor) -> Edges:
        """Views of the nodes, a dimension of size 1 where they do not tell edges apart."""
        parts = self._parts(nodes)
        return [_spread(parts[wire.source], wire.source_dims, len(wire.shape)) for wire in self.wiring.wires]

    def from_targets(self, nodes: Tensor) -> Edges:
        """Views of the nodes, a dimension of size 1 where they do not tell edges apart."""
        parts = self._parts(nodes)
        return [_spread(parts[wire.target], wire.target_dims, len(wire.shape)) for wire in self.wiring.wires]

    def to_targets(self, edges: Edges, how: Reduction = "mean") -> Tensor:
        """Reduce each slot over its other dimensions, then over the slots that share a target."""
        ends = [(wire.target, wire.target_dims) for wire in self.wiring.wires]
        return self._reduce(edges, ends, how)

    def to_sources(self, edges: Edges, how: Reduction = "mean") -> Tensor:
        """Reduce each slot over its other dimensions, then over the slots that share a source."""
        ends = [(wire.source, wire.source_dims) for wire in self.wiring.wires]
        return self._reduce(edges, ends, how)

    @property
    def has_links(self) -> bool:
        """Whether the architecture has groups that are `per` another, or pairs."""
        return bool(self.wiring.links)

    def to_parents(self, nodes: Tensor) -> Tensor:
        """Mean over children."""
        parts, links = self._parts(nodes), self.wiring.links
        return self._reduce([parts[link.child] for link in links], [(link.parent, link.dims) for link in links], "mean", nodes)

    def to_children(self, nodes: Tensor) -> Tensor:
        """Mean over parents."""
        parts, links = self._parts(nodes), self.wiring.links
        spread = [self._expanded(link, parts[link.parent]) for link in links]
        ends = [(link.child, tuple(range(len(self.wiring.places[link.child].shape)))) for link in links]
        return self._reduce(spread, ends, "mean", nodes)

    def mean_of_edges(self, edges: Edges) -> Float[Tensor, "networks channels"]:
        """Sum over every slot, divided by the number of edges."""
        sums = [part.flatten(1, -2).sum(1) if part.ndim > 2 else part for part in edges]
        return torch.stack(sums).sum(0) / sum(math.prod(wire.shape) for wire in self.wiring.wires)

    def mean_of_nodes(self, nodes: Tensor) -> Float[Tensor, "networks channels"]:
        """Mean over the second dimension."""
        return nodes.mean(1)

    def _parts(self, nodes: Tensor) -> list[Tensor]:
        """The nodes of each place, in its shape."""
        places = self.wiring.places
        parts = torch.split(nodes, [place.size for place in places], 1)
        return [part.reshape(len(part), *place.shape, part.shape[-1]) for part, place in zip(parts, places, strict=True)]

    def _expanded(self, link: Link, parent: Tensor) -> Tensor:
        shape = self.wiring.places[link.child].shape
        return _spread(parent, link.dims, len(shape)).expand(len(parent), *shape, parent.shape[-1])

    def _reduce(self, edges: Edges, ends: Sequence[tuple[int, Sequence[int]]], how: Reduction, like: Tensor | None = None) -> Tensor:
        first = edges[0] if like is None else like
        found: list[Tensor | None] = [None] * len(self.wiring.places)
        counts = [0] * len(found)
        for part, (at, dims) in zip(edges, ends, strict=True):
            made, count = _collect(part, dims, how)
            counts[at] += count
            held = found[at]
            found[at] = made if held is None else _join(held, made, how)
        if how == "mean":
            found = [None if part is None else part / max(1, count) for part, count in zip(found, counts, strict=True)]
        channels = first.shape[-1]
        filled = [
            first.new_zeros((self.num_networks, place.size, channels)) if part is None else part.reshape(-1, place.size, channels)
            for part, place in zip(found, self.wiring.places, strict=True)
        ]
        return torch.cat(filled, 1)


class SparseGraphs(Graphs):
    """Networks of any architectures: a part for each shape of cells, (edges, channels); nodes (nodes of all networks, channels)."""

    def __init__(self, batch: "Batch") -> None:
        """Take the edges of a batch of graphs (see `weightspace.metanets.graphs.graph.collate`)."""
        self.codes = Codes.in_graph(batch)
        self.num_networks = batch.num_graphs
        self.num_nodes = batch.num_nodes
        self.graph_of_node: Tensor = batch.batch
        self.parent_index: Tensor = batch.parent_index
        graphs = self.graph_of_node[batch.edge_index[1]]
        slots = batch.edge_slot + (batch.num_slots.cumsum(0) - batch.num_slots)[graphs]
        shapes, kinds = torch.unique(self.codes.slot_cells, dim=0, return_inverse=True)
        kind = kinds[slots]
        self.cells = [tuple(shape) for shape in shapes.tolist()]
        chosen = [(kind == k).nonzero()[:, 0] for k in range(len(self.cells))]
        self.values = [batch.edge_value[at, : math.prod(shape)] for at, shape in zip(chosen, self.cells, strict=True)]
        self.slots = [slots[at] for at in chosen]
        self.graphs = [graphs[at] for at in chosen]
        self.sources = [batch.edge_index[0, at] for at in chosen]
        self.targets = [batch.edge_index[1, at] for at in chosen]

    def nodes(self, features: Float[Tensor, "nodes channels"]) -> Tensor:
        """(nodes, channels)."""
        return features

    def from_slots(self, features: Float[Tensor, "slots channels"]) -> Edges:
        """(edges, channels)."""
        return [features[at] for at in self.slots]

    def from_sources(self, nodes: Tensor) -> Edges:
        """(edges, channels)."""
        return [nodes[at] for at in self.sources]

    def from_targets(self, nodes: Tensor) -> Edges:
        """(edges, channels)."""
        return [nodes[at] for at in self.targets]

    def to_targets(self, edges: Edges, how: Reduction = "mean") -> Tensor:
        """Scatter."""
        return _scatter(edges, self.targets, self.num_nodes, how)

    def to_sources(self, edges: Edges, how: Reduction = "mean") -> Tensor:
        """Scatter."""
        return _scatter(edges, self.sources, self.num_nodes, how)

    @cached_property
    def has_links(self) -> bool:
        """Whether any node of any network has a parent."""
        return self.parent_index.shape[1] > 0

    def to_parents(self, nodes: Tensor) -> Tensor:
        """Mean over children."""
        child, parent = self.parent_index
        return _scatter([nodes[child]], [parent], self.num_nodes, "mean")

    def to_children(self, nodes: Tensor) -> Tensor:
        """Mean over parents."""
        child, parent = self.parent_index
        return _scatter([nodes[parent]], [child], self.num_nodes, "mean")

    def mean_of_edges(self, edges: Edges) -> Float[Tensor, "networks channels"]:
        """Scatter to the networks."""
        return _scatter(edges, self.graphs, self.num_networks, "mean")

    def mean_of_nodes(self, nodes: Tensor) -> Float[Tensor, "networks channels"]:
        """Scatter to the networks."""
        return _scatter([nodes], [self.graph_of_node], self.num_networks, "mean")


def _spread(part: Tensor, dims: Sequence[int], ndim: int) -> Tensor:
    """Lay a place's nodes, (networks, *shape, channels), along those dimensions of edges that index them."""
    order = sorted(range(len(dims)), key=lambda j: dims[j])
    if order != list(range(len(dims))):
        part = part.permute(0, *(j + 1 for j in order), -1)
    shape = [1] * ndim
    for j, size in zip(order, part.shape[1:-1], strict=True):
        shape[dims[j]] = size
    return part.reshape(len(part), *shape, part.shape[-1])


def _collect(part: Tensor, dims: Sequence[int], how: Reduction) -> tuple[Tensor, int]:
    """Reduce edges, (networks, *shape, channels), over all dimensions but some, and bring those into order; how many went into each."""
    over = [j + 1 for j in range(part.ndim - 2) if j not in dims]
    count = math.prod(part.shape[j] for j in over)
    if over:
        part = part.sum(over) if how in ("mean", "sum") else part.amax(over) if how == "max" else part.amin(over)
    kept = sorted(dims)
    if kept != list(dims):
        part = part.permute(0, *(kept.index(dim) + 1 for dim in dims), -1)
    return part, count


def _join(a: Tensor, b: Tensor, how: Reduction) -> Tensor:
    if how in ("mean", "sum"):
        return a + b
    return torch.maximum(a, b) if how == "max" else torch.minimum(a, b)


def _scatter(edges: Edges, ends: Sequence[Tensor], size: int, how: Reduction) -> Tensor:
    """Reduce rows by where they go; 0 where none does."""
    values, at = (edges[0], ends[0]) if len(edges) == 1 else (torch.cat(edges), torch.cat(list(ends)))
    if how in ("max", "min"):
        index = at[:, None].expand_as(values)
        empty = values.new_zeros((size, values.shape[1]))
        return empty.scatter_reduce(0, index, values, "amax" if how == "max" else "amin", include_self=False)
    total = values.new_zeros((size, values.shape[1])).index_add(0, at, values)
    if how == "sum":
        return total
    return total / torch.bincount(at, minlength=size).clamp_min(1).to(total.dtype)[:, None]


__all__ = ["DenseGraphs", "Edges", "Graphs", "Reduction", "SparseGraphs"]
