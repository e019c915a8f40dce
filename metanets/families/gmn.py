"""Graph metanetwork: messages between neurons along their weights."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import MetanetError
from weightspace.metanets.graphs.net import GraphMetaNet
from weightspace.metanets.graphs.paths import Edges, Graphs
from weightspace.metanets.graphs.vectors import CELL_CODES, NODE_CODES, SLOT_CODES, cell_vectors, node_vectors, slot_vectors
from weightspace.metanets.layout import Layout
from weightspace.metanets.metanet import metanet

SCALES = (1.0, 4.0, 16.0, 64.0)
"""Magnifications of a weight, each followed by sign(x) log(1 + |x|), so that weights of any size are told apart."""


@metanet("gmn", reference="arXiv:2312.04501", any_architecture=True)
class GMN(GraphMetaNet):
    """Neurons and weights with features of their own, updated from each other along the graph of parameters.

    Lim et al., arXiv:2312.04501: each layer makes an edge's feature from its two ends, and a node's from the mean over all edges that
    enter it. Where we depart:

    - a kernel is one edge with all its cells, not parallel edges, so a convolution costs as little as a linear layer;
    - a message is the hidden layer of the edge's update; the linear map of messages comes after the mean, with which it commutes;
    - an undirected graph has one feature a weight, not one for each direction; each node has one mean of either side;
    - weights are multiplied by the square root of their fan-in and brought to several scales; theirs are Fourier features of them raw;
    - groups that are `per` another (channels of heads) hear from their parents and are heard by them;
    - the readout averages the hidden layer of the last update and the edges before it, where theirs has a perceptron more.

    Those averages over all weights differ between networks by a percent or so.
    """

    is_faint = True

    def __init__(
        self, layouts: Sequence[Layout], *, dim: int = 64, channels: int = 32, layers: int = 4, bidirectional: bool = True
    ) -> None:
        """Build it; it reads any architecture.

        Args:
            layouts: of any architectures.
            dim: length of the vector.
            channels: length of the features of nodes and edges.
            layers: how often nodes and edges are updated.
            bidirectional: whether nodes also hear from the edges that leave them.

        Raises:
            MetanetError: there are no layers.
        """
        super().__init__()
        if layers < 1:
            raise MetanetError(f"metanet 'gmn' has {layers} layers; give at least 1")
        self.dim, self.channels = dim, channels
        self.of_node = nn.Sequential(nn.Linear(NODE_CODES, channels), nn.SiLU(), nn.Linear(channels, channels))
        self.of_slot = nn.Sequential(nn.Linear(SLOT_CODES, channels), nn.SiLU(), nn.Linear(channels, channels))
        self.of_cell = nn.Sequential(nn.Linear(CELL_CODES, channels), nn.SiLU(), nn.Linear(channels, channels * len(SCALES)))
        self.layers = nn.ModuleList(Layer(channels, bidirectional) for _ in range(layers - 1))
        self.last = EdgeUpdate(channels)
        self.norm, self.out = nn.LayerNorm(channels, elementwise_affine=False), nn.Linear(channels, channels)
        self.head = nn.Sequential(nn.Linear(2 * channels, 2 * channels), nn.ReLU(), nn.Linear(2 * channels, dim))

    def read(self, graphs: Graphs) -> Float[Tensor, "networks dim"]:
        """Average what the last update has in its hidden layer, a perceptron of each edge and its ends, and the edges before it."""
        edges, hidden = self._read(graphs)
        made: Tensor = self.head(torch.cat([graphs.mean_of_edges(hidden), graphs.mean_of_edges(edges)], -1))
        return made

    def read_edges(self, graphs: Graphs) -> Edges:
        """Features of weights after the last update."""
        return [self.out(self.norm(part)) for part in self.last.apply_to(*self._read(graphs))]

    def _read(self, graphs: Graphs) -> tuple[Edges, Edges]:
        """Edges before the last update, and its hidden layer."""
        nodes, edges = self._encode(graphs)
        for layer in self.layers:
            nodes, edges = layer(graphs, nodes, edges)
        return edges, self.last(graphs, self.norm(nodes), edges)

    def _encode(self, graphs: Graphs) -> tuple[Tensor, Edges]:
        like = self.out.weight
        nodes = graphs.nodes(self.of_node(node_vectors(graphs.codes, like)))
        slots = graphs.from_slots(self.of_slot(slot_vectors(graphs.codes, like)))
        gains = graphs.from_slots(graphs.codes.slot_fan[:, None].to(like).sqrt() * like.new_tensor(SCALES))
        kernels = {shape: self._kernel(shape, like) for shape in set(graphs.cells)}
        edges = []
        for values, shape, slot, gain in zip(graphs.values, graphs.cells, slots, gains, strict=True):
            magnified = (values[..., None] * gain[..., None, :]).flatten(-2)
            edges.append(magnified.abs().log1p().copysign(magnified) @ kernels[shape] + slot)
        return nodes, edges

    def _kernel(self, shape: tuple[int, ...], like: Tensor) -> Float[Tensor, "numbers channels"]:
        """What each cell at each scale adds to an edge's features, by where the cell is."""
        made: Tensor = self.of_cell(cell_vectors(torch.tensor(shape, device=like.device), like))
        return made.reshape(-1, self.channels) / math.sqrt(math.prod(shape))


class Layer(nn.Module):
    """One update of edges from their ends, and of nodes from the edges that enter them."""

    def __init__(self, channels: int, bidirectional: bool) -> None:
        super().__init__()
        self.bidirectional = bidirectional
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.edge = EdgeUpdate(channels)
        self.node = nn.Linear((5 if bidirectional else 4) * channels, channels)
        self.node_out = _zero(nn.Linear(channels, channels))

    def forward(self, graphs: Graphs, nodes: Tensor, edges: Edges) -> tuple[Tensor, Edges]:
        """Update nodes and edges; messages are the hidden layer of the edges' update."""
        states = self.norm(nodes)
        hidden = self.edge(graphs, states, edges)
        heard = [states, graphs.to_targets(hidden)]
        if self.bidirectional:
            heard.append(graphs.to_sources(hidden))
        none = torch.zeros_like(states)
        heard += [graphs.to_parents(states), graphs.to_children(states)] if graphs.has_links else [none, none]
        nodes = nodes + self.node_out(nn.functional.silu(self.node(torch.cat(heard, -1))))
        return nodes, self.edge.apply_to(edges, hidden)


class EdgeUpdate(nn.Module):
    """A perceptron of the features of an edge and of its two ends, in two steps: the hidden layer, and what it adds to the edge."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # A linear map of features joined is the sum of linear maps of each: what a node says is computed once, not for each edge.
        # Gain and shift of the norm, and all shifts but one, would do nothing that these maps cannot do.
        self.norm = nn.LayerNorm(channels, elementwise_affine=False)
        self.edge, self.target = nn.Linear(channels, channels, bias=False), nn.Linear(channels, channels, bias=False)
        self.source = nn.Linear(channels, channels)
        self.out = _zero(nn.Linear(channels, channels, bias=False))

    def forward(self, graphs: Graphs, states: Tensor, edges: Edges) -> Edges:
        """The hidden layer."""
        ends = zip(edges, graphs.from_sources(self.source(states)), graphs.from_targets(self.target(states)), strict=True)
        # In place after a sum only: a linear layer's result is a view, on which that is slow.
        return [(self.edge(self.norm(part)) + source).add_(target).relu_() for part, source, target in ends]

    def apply_to(self, edges: Edges, hidden: Edges) -> Edges:
        """The edges with what the hidden layer adds to them."""
        return [part + self.out(made) for part, made in zip(edges, hidden, strict=True)]


def _zero(linear: nn.Linear) -> nn.Linear:
    """Begin as nothing, so that the layer begins as the identity."""
    for parameter in linear.parameters():
        nn.init.zeros_(parameter)
    return linear
