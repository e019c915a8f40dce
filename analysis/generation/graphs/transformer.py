"""A graph transformer: every node attends to every other, biased by the shortest paths between them."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from weightspace.analysis.generation.graphs.graph import FARTHEST, ArchitectureGraph
from weightspace.analysis.generation.transformer import Transformer

_DEGREES = 16


class GraphTransformer(nn.Module):
    """The layers of GHN-3 (Knyazev et al., arXiv:2303.04143, section 3), after Graphormer (arXiv:2106.05234).

    Embeddings of the in- and the out-degree are added to the nodes. The attention of node i to node j is biased by a small network of
    the embedded lengths of the shortest paths from i to j and from j to i, one bias a head, the same in all layers.
    """

    def __init__(self, hidden: int, *, layers: int, heads: int, farthest: int) -> None:
        """Make it.

        Args:
            hidden: features of a node.
            layers: see `Transformer`.
            heads: see `Transformer`.
            farthest: the longest path that is told apart from none; 1 for no virtual edges.
        """
        super().__init__()
        self.farthest = farthest
        self.degree_in, self.degree_out = nn.Embedding(_DEGREES, hidden), nn.Embedding(_DEGREES, hidden)
        self.forth, self.back = nn.Embedding(FARTHEST + 1, hidden // 2), nn.Embedding(FARTHEST + 1, hidden // 2)
        self.bias = nn.Sequential(nn.ReLU(), nn.Linear(hidden // 2 * 2, hidden), nn.ReLU(), nn.Linear(hidden, heads))
        self.layers = Transformer(hidden, layers=layers, heads=heads)

    def forward(self, nodes: Float[Tensor, "nodes dim"], graphs: Sequence[ArchitectureGraph]) -> Float[Tensor, "nodes dim"]:
        """Update the nodes of graphs that lie one after the other."""
        longest, device = max(map(len, graphs)), nodes.device
        degrees = [torch.cat([graph.adjacency.sum(over) for graph in graphs]).clamp(max=_DEGREES - 1).to(device) for over in (0, 1)]
        nodes = nodes + self.degree_in(degrees[0]) + self.degree_out(degrees[1])
        padded = pad_sequence(list(torch.split(nodes, [len(graph) for graph in graphs])), batch_first=True)
        is_node = torch.tensor([[at < len(graph) for at in range(longest)] for graph in graphs], device=device)
        bias = self._biases(torch.stack([_padded(graph.distances, longest) for graph in graphs]).to(device), is_node)
        made: Tensor = self.layers(padded, bias)[is_node]
        return made

    def _biases(
        self, distances: Int[Tensor, "graphs nodes nodes"], is_node: Bool[Tensor, "graphs nodes"]
    ) -> Float[Tensor, "graphs heads nodes nodes"]:
        kept = torch.where(distances <= self.farthest, distances, 0)
        bias: Tensor = self.bias(torch.cat([self.forth(kept), self.back(kept.transpose(1, 2))], -1))
        return bias.permute(0, 3, 1, 2).masked_fill(~is_node[:, None, None], -torch.inf)


def _padded(distances: Int[Tensor, "nodes nodes"], longest: int) -> Int[Tensor, "padded padded"]:
    missing = longest - len(distances)
    return nn.functional.pad(distances, (0, missing, 0, missing))


__all__ = ["GraphTransformer"]
