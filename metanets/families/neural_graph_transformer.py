"""Neural graphs, NG-T: neurons as nodes that attend to each other along their weights."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from weightspace.errors import MetanetError
from weightspace.metanets.graphs.paths import Edges, Graphs
from weightspace.metanets.graphs.rounds import RoundsMetaNet
from weightspace.metanets.layout import Layout
from weightspace.metanets.metanet import metanet


@metanet("neural_graph_transformer", reference="arXiv:2403.12143", any_architecture=True)
class NeuralGraphTransformer(RoundsMetaNet):
    """A relational transformer over neurons, whose attention goes along the weights and is changed by them (NG-T).

    Kofinas et al., Graph Neural Networks for Learning Equivariant Representations of Neural Networks (arXiv:2403.12143), section 3, after
    Diao and Loynd (arXiv:2210.05062). Departures: a neuron attends to its neighbours alone (the authors' code makes that mask but never
    applies it), those it reads from and those that read from it, told apart; hence no memory is spent on pairs without a weight. Any
    architecture is read, so positions are told by codes instead of learned vectors, and the readout pools hidden, input and output
    neurons apart.
    """

    def __init__(
        self,
        layouts: Sequence[Layout],
        *,
        dim: int = 64,
        channels: int = 64,
        layers: int = 4,
        heads: int = 4,
        frequencies: int = 16,
        sigma: float = 0.3,
    ) -> None:
        """Build it for any architectures.

        Args:
            layouts: not looked at.
            dim: length of the vector.
            channels: length of a node's or a weight's features.
            layers: rounds of attention.
            heads: of each round; they divide the channels.
            frequencies: of the Fourier features of weights.
            sigma: deviation of these frequencies, in turns.

        Raises:
            MetanetError: the heads do not divide the channels.
        """
        if heads < 1 or channels % heads:
            raise MetanetError(f"expected heads that divide the channels, found heads={heads} and channels={channels}; change one of them")
        rounds = [NodeUpdate(channels, heads) for _ in range(layers)]
        super().__init__(rounds, EdgeUpdate, dim=dim, channels=channels, reverse=True, frequencies=frequencies, sigma=sigma)


class NodeUpdate(nn.Module):
    """Attention along the weights, then a perceptron, each added to what was there and normalised."""

    def __init__(self, channels: int, heads: int) -> None:
        """Build it for features of a length."""
        super().__init__()
        self.attention = EdgeAttention(channels, heads)
        self.parent, self.child = nn.Linear(channels, channels, bias=False), nn.Linear(channels, channels, bias=False)
        self.inner = nn.Sequential(nn.Linear(channels, 2 * channels), nn.SiLU(), nn.Linear(2 * channels, channels))
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))

    def forward(self, graphs: Graphs, nodes: Tensor, edges: Edges, counts: tuple[Tensor, Tensor]) -> Tensor:
        """Update the nodes; counts of incoming edges, then of outgoing ones."""
        heard = self.attention(graphs, nodes, edges, counts)
        if graphs.has_links:
            heard = heard + self.parent(graphs.to_children(nodes)) + self.child(graphs.to_parents(nodes))
        nodes = self.norms[0](nodes + heard)
        made: Tensor = self.norms[1](nodes + self.inner(nodes))
        return made


class EdgeAttention(nn.Module):
    """Attention of each node over all edges that enter or leave it.

    Over edge e between a node i and its neighbour j: query q_i + q_e, key k_j + k_e, value v_j * g_e + v_e. What nodes say is made by
    other matrices for edges that leave.
    """

    def __init__(self, channels: int, heads: int) -> None:
        """Build it for features of a length."""
        super().__init__()
        self.heads, self.scale = heads, math.sqrt(channels // heads)
        self.query, self.key, self.value = (nn.ModuleList(nn.Linear(channels, channels) for _ in range(2)) for _ in range(3))
        self.edge = nn.ModuleDict({what: nn.Linear(channels, channels, bias=False) for what in ("query", "key", "value", "gain")})
        self.out = nn.Linear(channels, channels)

    def forward(self, graphs: Graphs, nodes: Tensor, edges: Edges, counts: tuple[Tensor, Tensor]) -> Tensor:
        """Attend; 0 is heard at nodes without edges."""
        said = [{what: layer(edge) for what, layer in self.edge.items()} for edge in edges]
        scores, values = zip(*(self._side(graphs, nodes, said, back) for back in (False, True)), strict=True)
        top = self._top(graphs, scores, counts)
        totals, heard = [], []
        for back, (score, value) in enumerate(zip(scores, values, strict=True)):
            near, gather = (graphs.from_sources, graphs.to_sources) if back else (graphs.from_targets, graphs.to_targets)
            shares = [(one - peak).exp() for one, peak in zip(score, near(top), strict=True)]
            weighed = [(share[..., None] * one).flatten(-2) for share, one in zip(shares, value, strict=True)]
            totals.append(gather(shares, "sum"))
            heard.append(gather(weighed, "sum"))
        total = totals[0] + totals[1]
        total = torch.where(total > 0, total, torch.ones_like(total))
        made: Tensor = self.out((self._headed(heard[0] + heard[1]) / total[..., None]).flatten(-2))
        return made

    def _side(self, graphs: Graphs, nodes: Tensor, said: Sequence[dict[str, Tensor]], back: bool) -> tuple[Edges, Edges]:
        """Scores, (..., heads), and values, (..., heads, channels of a head), of edges that enter, or with `back` leave, a node."""
        near, far = (graphs.from_sources, graphs.from_targets) if back else (graphs.from_targets, graphs.from_sources)
        query, key, value = (layers[int(back)](nodes) for layers in (self.query, self.key, self.value))
        scores, values = [], []
        for own, q, k, v in zip(said, near(query), far(key), far(value), strict=True):
            scores.append(self._headed((own["query"] + q) * (own["key"] + k)).sum(-1) / self.scale)
            values.append(self._headed(torch.addcmul(own["value"], own["gain"], v)))
        return scores, values

    def _headed(self, features: Tensor) -> Tensor:
        """(..., heads, channels of a head)."""
        return features.reshape(*features.shape[:-1], self.heads, -1)

    def _top(self, graphs: Graphs, scores: Sequence[Edges], counts: tuple[Tensor, Tensor]) -> Tensor:
        """The largest score of each node, on both sides; 0 at nodes without edges. It cancels, so it has no derivative."""
        with torch.no_grad():
            found = [graphs.to_targets(scores[0], "max"), graphs.to_sources(scores[1], "max")]
            found = [one.masked_fill(count == 0, -torch.inf) for one, count in zip(found, counts, strict=True)]
            top = torch.maximum(*found)
            return top.masked_fill(top == -torch.inf, 0.0)


class EdgeUpdate(nn.Module):
    """The update of a weight's features by those of the neurons that it joins, then by themselves."""

    def __init__(self, channels: int) -> None:
        """Build it for features of a length."""
        super().__init__()
        self.first, self.second = (nn.Sequential(nn.Linear(channels, channels), nn.SiLU(), nn.Linear(channels, channels)) for _ in range(2))
        self.target, self.source = nn.Linear(channels, channels, bias=False), nn.Linear(channels, channels, bias=False)
        self.norms = nn.ModuleList(nn.LayerNorm(channels) for _ in range(2))

    def forward(self, graphs: Graphs, nodes: Tensor, edges: Edges) -> Edges:
        """Update the edges."""
        made = []
        ends = zip(edges, graphs.from_targets(self.target(nodes)), graphs.from_sources(self.source(nodes)), strict=True)
        for edge, target, source in ends:
            # In place after a sum only: a linear layer's result is a view, on which that is slow.
            edge = self.norms[0]((self.first(edge) + edge).add_(target).add_(source))
            made.append(self.norms[1](self.second(edge) + edge))
        return made


__all__ = ["EdgeAttention", "EdgeUpdate", "NeuralGraphTransformer", "NodeUpdate"]
