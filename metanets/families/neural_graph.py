"""Neural graphs, NG-GNN: neurons as nodes and weights as edges, read by a graph network that aggregates as PNA does."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from weightspace.metanets.graphs.aggregation import AGGREGATES, aggregate
from weightspace.metanets.graphs.paths import Edges, Graphs
from weightspace.metanets.graphs.rounds import RoundsMetaNet
from weightspace.metanets.layout import Layout
from weightspace.metanets.metanet import metanet


@metanet("neural_graph", reference="arXiv:2403.12143", any_architecture=True)
class NeuralGraph(RoundsMetaNet):
    """A graph network over neurons and weights, with messages that weights scale and shift (NG-GNN).

    Kofinas et al., Graph Neural Networks for Learning Equivariant Representations of Neural Networks (arXiv:2403.12143), section 3.
    The message of a weight e from neuron j to neuron i is scale(e) * MLP[x_i; x_j] + shift(e). Departures: messages also run from what
    a weight makes to what it reads (`reverse`), with weights of their own; any architecture is read, so positions are told by codes
    instead of learned vectors, and the readout pools hidden, input and output neurons apart.
    """

    def __init__(
        self,
        layouts: Sequence[Layout],
        *,
        dim: int = 64,
        channels: int = 32,
        layers: int = 4,
        reverse: bool = True,
        frequencies: int = 16,
        sigma: float = 0.3,
    ) -> None:
        """Build it for any architectures.

        Args:
            layouts: not looked at.
            dim: length of the vector.
            channels: length of a node's or a weight's features.
            layers: rounds of messages.
            reverse: whether messages also run backwards.
            frequencies: of the Fourier features of weights.
            sigma: deviation of these frequencies, in turns.
        """
        rounds = [Messages(channels, reverse) for _ in range(layers)]
        super().__init__(rounds, EdgeUpdate, dim=dim, channels=channels, reverse=reverse, frequencies=frequencies, sigma=sigma)


class Messages(nn.Module):
    """One round of messages, and the update of nodes by what they got."""

    def __init__(self, channels: int, reverse: bool) -> None:
        """Build it for features of a length."""
        super().__init__()
        sides = 2 if reverse else 1
        self.target, self.source = nn.Linear(channels, channels), nn.Linear(channels, channels, bias=False)
        self.mix, self.scale, self.shift = (nn.ModuleList(nn.Linear(channels, channels) for _ in range(sides)) for _ in range(3))
        self.parent, self.child = nn.Linear(channels, channels, bias=False), nn.Linear(channels, channels, bias=False)
        self.update = nn.Sequential(
            nn.Linear(channels * (1 + sides * AGGREGATES), channels),
            nn.SiLU(),
            nn.Linear(channels, channels),
            nn.LayerNorm(channels),
            nn.SiLU(),
        )

    def forward(self, graphs: Graphs, nodes: Tensor, edges: Edges, degrees: Sequence[Tensor]) -> Tensor:
        """Update the nodes; degrees of incoming edges, then of outgoing ones."""
        if graphs.has_links:
            nodes = nodes + self.parent(graphs.to_children(nodes)) + self.child(graphs.to_parents(nodes))
        targets, sources = graphs.from_targets(self.target(nodes)), graphs.from_sources(self.source(nodes))
        mixed = [nn.functional.silu(target + source) for target, source in zip(targets, sources, strict=True)]
        found = []
        for side, degree in enumerate(degrees):
            messages = [
                torch.addcmul(self.shift[side](edge), self.scale[side](edge), self.mix[side](pair))
                for edge, pair in zip(edges, mixed, strict=True)
            ]
            found.append(aggregate(graphs, messages, degree, back=side == 1))
        made: Tensor = nodes + self.update(torch.cat([nodes, *found], -1))
        return made


class EdgeUpdate(nn.Module):
    """The update of a weight's features by those of the neurons that it joins.

    SiLU(W_e e + W_s x_s + W_t x_t). The paper has one more linear layer outside, but all that reads edges begins with a linear layer.
    """

    def __init__(self, channels: int) -> None:
        """Build it for features of a length."""
        super().__init__()
        self.edge = nn.Linear(channels, channels)
        self.target, self.source = nn.Linear(channels, channels, bias=False), nn.Linear(channels, channels, bias=False)

    def forward(self, graphs: Graphs, nodes: Tensor, edges: Edges) -> Edges:
        """Update the edges."""
        ends = zip(edges, graphs.from_targets(self.target(nodes)), graphs.from_sources(self.source(nodes)), strict=True)
        # In place after a sum only: a linear layer's result is a view, on which that is slow.
        return [nn.functional.silu((self.edge(edge) + target).add_(source)) for edge, target, source in ends]


__all__ = ["EdgeUpdate", "Messages", "NeuralGraph"]
