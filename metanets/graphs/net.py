"""The base of metanets that read networks as graphs: dense where many are of one architecture, sparse where few are."""

import abc
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.metanets.batch import WeightBatch, WeightSet
from weightspace.metanets.graphs.graph import batches, to_graph
from weightspace.metanets.graphs.paths import DenseGraphs, Edges, Graphs, SparseGraphs
from weightspace.metanets.metanet import EquivariantMetaNet

if TYPE_CHECKING:
    from torch_geometric.data import Batch

FEW = 4
"""Networks an architecture, on the mean, below which a set is read as one batch of graphs."""

BUDGET = 2**17
"""Edges of such a batch, or those of the largest network where it alone has more."""


class GraphMetaNet(EquivariantMetaNet):
    """A metanet with two paths that give the same: dense over the stacked slots of one architecture, sparse over a batch of graphs.

    The dense path is the fast one; the sparse path takes any architectures in one go. A family says what it makes of `Graphs`, once
    for both.
    """

    @abc.abstractmethod
    def read(self, graphs: Graphs) -> Float[Tensor, "networks dim"]:
        """Vectors of networks."""

    @abc.abstractmethod
    def read_edges(self, graphs: Graphs) -> Edges:
        """Features of weights."""

    def forward(self, networks: WeightSet | WeightBatch) -> Float[Tensor, "networks dim"]:
        """Read networks of any architectures, on the path that is faster for them."""
        if isinstance(networks, WeightBatch) or len(networks.batches) == 1 or len(networks) >= FEW * len(networks.batches):
            return super().forward(networks)
        return torch.cat([self.embed_graphs(graphs) for graphs in _joined(networks)])

    def embed(self, batch: WeightBatch) -> Float[Tensor, "networks dim"]:
        """Read networks of one architecture."""
        return self.read(DenseGraphs(batch))

    def embed_graphs(self, graphs: "Batch") -> Float[Tensor, "networks dim"]:
        """Read graphs that were joined by `weightspace.metanets.graphs.graph.collate` or `batches`."""
        return self.read(SparseGraphs(graphs))

    def features(self, batch: WeightBatch) -> dict[str, Float[Tensor, "networks ... channels"]]:
        """Features of each slot's weights by slot key."""
        graphs = DenseGraphs(batch)
        return {wire.slot.key: part for wire, part in zip(graphs.wiring.wires, self.read_edges(graphs), strict=True)}


def _joined(networks: WeightSet) -> "Iterator[Batch]":
    """The graphs of a set in its order, in batches."""
    edges = [sum(math.prod(batch.layout.shape(slot)[:-1]) for slot in batch.layout.slots) for batch in networks.batches]
    return batches((to_graph(batch, at) for batch, at in networks.networks()), max(BUDGET, *edges))


__all__ = ["BUDGET", "FEW", "GraphMetaNet"]
