"""Features of nodes: what each computes, and the shape of its weight."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.generation.graphs.graph import PRIMITIVES, ArchitectureGraph, channel_sizes

_KERNELS = 12  # sizes from 0, none, to 11


class NodeFeatures(nn.Module):
    """An embedding of the primitive plus one of each size (arXiv:2110.13100, appendix A).

    Sizes that are not told apart are taken for the nearest that is. The published vocabulary of channels is 8, 16, 24 ...; ours
    tells each size up to 16 apart too, since small networks have such.
    """

    channels: Tensor

    def __init__(self, hidden: int) -> None:
        super().__init__()
        known = channel_sizes()
        self.register_buffer("channels", torch.tensor(known), persistent=False)
        self.primitive = nn.Embedding(len(PRIMITIVES), hidden)
        self.size = nn.ModuleList([nn.Embedding(count, hidden // 4) for count in (len(known) + 1, len(known) + 1, _KERNELS, _KERNELS)])

    def forward(self, graphs: Sequence[ArchitectureGraph]) -> Float[Tensor, "nodes dim"]:
        """The nodes of all graphs, one after the other."""
        device = self.channels.device
        primitives = torch.tensor([PRIMITIVES.index(one) for graph in graphs for one in graph.primitives], device=device)
        sizes = torch.tensor([one for graph in graphs for one in graph.sizes], device=device)
        channels = (sizes[:, :2, None] - self.channels).abs().argmin(-1) + 1
        codes = torch.cat([torch.where(sizes[:, :2] > 0, channels, 0), sizes[:, 2:].clamp(max=_KERNELS - 1)], 1)
        shape = torch.cat([embed(codes[:, at]) for at, embed in enumerate(self.size)], 1)
        made: Tensor = self.primitive(primitives) + shape
        return made


__all__ = ["NodeFeatures"]
