"""Rounds over nodes and edges: what the neural graphs share, whatever passes along their weights."""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from weightspace.metanets.graphs.aggregation import degrees
from weightspace.metanets.graphs.encoders import NodeEncoder, Readout, WeightEncoder
from weightspace.metanets.graphs.net import GraphMetaNet
from weightspace.metanets.graphs.paths import Edges, Graphs


class RoundsMetaNet(GraphMetaNet):
    """Encoders of weights and neurons, rounds of updates of both, and a readout of the neurons."""

    def __init__(
        self,
        rounds: Sequence[nn.Module],
        update: Callable[[int], nn.Module],
        *,
        dim: int,
        channels: int,
        reverse: bool,
        frequencies: int,
        sigma: float,
    ) -> None:
        """Put one together.

        Args:
            rounds: what updates the nodes, of graphs, nodes, edges and degrees of incoming and, with `reverse`, outgoing edges.
            update: makes what updates the edges after a round, of features of a length.
            dim: length of the vector.
            channels: length of a node's or a weight's features.
            reverse: whether something also runs from what a weight makes to what it reads.
            frequencies: of the Fourier features of weights.
            sigma: deviation of these frequencies, in turns.
        """
        super().__init__()
        self.dim, self.channels, self.reverse = dim, channels, reverse
        self.weights, self.neurons = WeightEncoder(channels, frequencies=frequencies, sigma=sigma), NodeEncoder(channels)
        self.layers = nn.ModuleList(rounds)
        self.updates = nn.ModuleList(update(channels) for _ in rounds)
        self.readout, self.each = Readout(channels, dim), nn.Linear(channels, channels)

    def read(self, graphs: Graphs) -> Float[Tensor, "networks dim"]:
        """Vectors of networks, from their nodes after the last round."""
        made: Tensor = self.readout(graphs, self._read(graphs)[0])
        return made

    def read_edges(self, graphs: Graphs) -> Edges:
        """Features of weights, updated once more after the last round."""
        return [self.each(part) for part in self.updates[-1](graphs, *self._read(graphs))]

    def _read(self, graphs: Graphs) -> tuple[Tensor, Edges]:
        """States of nodes after the last round, and of edges before it."""
        edges = self.weights(graphs)
        nodes = self.neurons(graphs, edges)
        counts = tuple(degrees(graphs, back=side == 1) for side in range(1 + self.reverse))
        for at, layer in enumerate(self.layers):
            if at:
                edges = self.updates[at - 1](graphs, nodes, edges)
            nodes = layer(graphs, nodes, edges, counts)
        return nodes, edges


__all__ = ["RoundsMetaNet"]
