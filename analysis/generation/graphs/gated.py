"""A gated graph network: nodes updated one after the other along the flow of data, then against it."""

from collections.abc import Sequence
from itertools import accumulate, groupby, pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weightspace.analysis.generation.graphs.graph import ArchitectureGraph, virtual_weights


class GatedGNN(nn.Module):
    r"""The layers of GHN-2 (Knyazev et al., arXiv:2110.13100, eq. 2 and 4).

    In the order of the flow of data, then in the reverse order, with one GRU for both,

    $$m_v = \sum_{u \to v} f(h_u) + \sum_{1 < s_{uv} \le S} g(h_u) / s_{uv}, \qquad h_v = GRU(m_v, h_v)$$

    where $s_{uv}$ is the length of the shortest path. Nodes of one depth do not see one another, so they are updated together, in all
    graphs at once; that is the published order node by node.
    """

    def __init__(self, hidden: int, *, rounds: int, farthest: int) -> None:
        """Make it.

        Args:
            hidden: features of a node.
            rounds: of passes forth and back.
            farthest: the longest path that is a virtual edge; 1 for no virtual edges.
        """
        super().__init__()
        self.rounds, self.farthest = rounds, farthest
        self.near = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.far = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, hidden))
        self.cell = nn.GRUCell(hidden, hidden)

    def forward(self, nodes: Float[Tensor, "nodes dim"], graphs: Sequence[ArchitectureGraph]) -> Float[Tensor, "nodes dim"]:
        """Update the nodes of graphs that lie one after the other."""
        depths = [depth for graph in graphs for depth in graph.depths]
        order = torch.tensor(sorted(range(len(depths)), key=depths.__getitem__), device=nodes.device)
        sizes = [len(list(same)) for _, same in groupby(sorted(depths))]
        direct = self._arranged([graph.adjacency.float() for graph in graphs], order)
        virtual = self._arranged([virtual_weights(graph.distances, self.farthest) for graph in graphs], order)
        nodes = nodes[order]
        for _ in range(self.rounds):
            nodes = self._passed(nodes, direct.T, virtual.T, sizes)
            nodes = self._passed(nodes.flip(0), direct.flip(0, 1), virtual.flip(0, 1), sizes[::-1]).flip(0)
        return nodes[order.argsort()]

    def _arranged(self, weights: Sequence[Tensor], order: Int[Tensor, " nodes"]) -> Float[Tensor, "nodes nodes"]:
        joined: Tensor = torch.block_diag(*weights)  # type: ignore[no-untyped-call]
        return joined.to(order.device)[order][:, order]

    def _passed(
        self,
        nodes: Float[Tensor, "nodes dim"],
        direct: Float[Tensor, "nodes nodes"],
        virtual: Float[Tensor, "nodes nodes"],
        sizes: Sequence[int],
    ) -> Float[Tensor, "nodes dim"]:
        """One pass; the weights' rows are what a node hears, and every node hears earlier ones alone."""
        done: list[Tensor] = []
        near, far = [nodes[:0]], [nodes[:0]]
        for start, stop in pairwise(accumulate(sizes, initial=0)):
            message = direct[start:stop, :start] @ torch.cat(near)
            if self.farthest > 1:
                message = message + virtual[start:stop, :start] @ torch.cat(far)
            done.append(self.cell(message, nodes[start:stop]))
            near.append(self.near(done[-1]))
            far.append(self.far(done[-1]))
        return torch.cat(done)


__all__ = ["GatedGNN"]
