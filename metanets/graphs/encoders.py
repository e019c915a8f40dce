"""Encoders: vectors of the weights and the nodes of a graph, and of the graph as a whole, for any architecture."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import MetanetError
from weightspace.metanets.graphs.codes import NODES, SIDES
from weightspace.metanets.graphs.paths import DenseGraphs, Edges, Graphs, SparseGraphs
from weightspace.metanets.graphs.vectors import CELL_CODES, NODE_CODES, SLOT_CODES, cell_vectors, node_vectors, slot_vectors

TINY = 1e-24
"""Added to mean squares, so that a slot of zeros has a scale."""


class Fourier(nn.Module):
    """Numbers with sines and cosines of Gaussian multiples of them (Tancik et al., arXiv:2006.10739)."""

    def __init__(self, frequencies: int, sigma: float) -> None:
        """Draw the frequencies, once and for all; `sigma` is their deviation, in turns."""
        super().__init__()
        self.frequencies = nn.Buffer(torch.randn(frequencies) * (2 * math.pi * sigma))
        self.dim = 2 * frequencies + 1

    def forward(self, values: Float[Tensor, "*places"]) -> Float[Tensor, "*places features"]:
        """Encode numbers."""
        angle = values[..., None] * self.frequencies
        return torch.cat([values[..., None], angle.sin(), angle.cos()], -1)


class NodeEncoder(nn.Module):
    """Vectors of nodes: of what they are, and of the weights that stand on them alone (biases, gains, running statistics).

    Such a weight adds its vector, which is not zero where the weight is; so a bias of zero is told from none.
    """

    def __init__(self, channels: int) -> None:
        """Build it for vectors of a length."""
        super().__init__()
        self.code = nn.Linear(NODE_CODES, channels)

    def forward(self, graphs: Graphs, edges: Edges) -> Tensor:
        """Encode the nodes of graphs whose weights are encoded."""
        alone = graphs.from_slots((graphs.codes.slot_code[:, 3:] < 2).to(edges[0]))
        standing = [part * one if one.any() else part.new_zeros(()).expand_as(part) for part, one in zip(edges, alone, strict=True)]
        return graphs.nodes(self.code(node_vectors(graphs.codes, edges[0]))) + graphs.to_targets(standing, "sum")


class WeightEncoder(nn.Module):
    """Vectors of weights: Fourier features of their cells, weighed by where each cell is, then scaled and shifted by what their slot is.

    Values are divided by their slot's root mean square in that network, whose logarithm is told beside what the slot is. So weights of
    any size are read well without looking at the networks to be trained on.
    """

    def __init__(self, channels: int, *, frequencies: int, sigma: float) -> None:
        """Build it for vectors of a length; see `Fourier`."""
        super().__init__()
        self.fourier = Fourier(frequencies, sigma)
        self.value, self.cell = nn.Linear(self.fourier.dim, channels), nn.Linear(CELL_CODES, channels)
        self.slot = nn.Sequential(nn.Linear(SLOT_CODES + 1, channels), nn.SiLU(), nn.Linear(channels, 2 * channels))

    def forward(self, graphs: Graphs) -> Edges:
        """Encode the weights of graphs."""
        like = graphs.values[0]
        scales = slot_scales(graphs)
        vectors = slot_vectors(graphs.codes, like).expand(*scales.shape, -1)
        films = of_slots(graphs, self.slot(torch.cat([vectors, scales.log()[..., None]], -1)))
        made = []
        for values, scale, film, shape in zip(graphs.values, of_slots(graphs, scales[..., None]), films, graphs.cells, strict=True):
            hidden = self.value(self.fourier(values / scale))
            if math.prod(shape) == 1:
                hidden = hidden.squeeze(-2)
            else:
                hidden = (hidden * (1 + self.cell(cell_vectors(torch.tensor(shape), like)))).mean(-2)
            gain, shift = film.chunk(2, -1)
            made.append(torch.addcmul(shift, hidden, 1 + gain))
        return made


def slot_scales(graphs: Graphs) -> Float[Tensor, "*networks slots"]:
    """Root mean square of each slot's values: (networks, slots), or (slots of all networks) of sparse graphs."""
    if isinstance(graphs, DenseGraphs):
        return (torch.stack([values.flatten(1).square().mean(1) for values in graphs.values], 1) + TINY).sqrt()
    total = graphs.values[0].new_zeros((2, len(graphs.codes.slot_code)))
    for values, slots in zip(graphs.values, _sparse(graphs).slots, strict=True):
        numbers = torch.stack([values.square().sum(-1), torch.full_like(values[:, 0], values.shape[-1])])
        total = total.index_add(1, slots, numbers)
    return (total[0] / total[1].clamp_min(1) + TINY).sqrt()


def of_slots(graphs: Graphs, features: Float[Tensor, "*networks slots channels"]) -> Edges:
    """Bring features of each network's slots to its edges, broadcast."""
    if isinstance(graphs, DenseGraphs):
        return [features[:, at].reshape(len(features), *(1 for _ in values.shape[1:-1]), -1) for at, values in enumerate(graphs.values)]
    return [features[slots] for slots in _sparse(graphs).slots]


def _sparse(graphs: Graphs) -> SparseGraphs:
    if not isinstance(graphs, SparseGraphs):
        raise MetanetError(f"expected dense or sparse graphs, found {type(graphs).__name__}")
    return graphs


class Readout(nn.Module):
    """One vector of a network: hidden neurons, inputs and outputs, each through a perceptron and averaged."""

    def __init__(self, channels: int, dim: int) -> None:
        """Build it for nodes' features of a length."""
        super().__init__()
        self.node = nn.Sequential(nn.Linear(channels, channels), nn.SiLU())
        self.out = nn.Sequential(nn.Linear(3 * channels, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, graphs: Graphs, nodes: Tensor) -> Float[Tensor, "networks dim"]:
        """Read the nodes."""
        made: Tensor = self.out(torch.cat([mean_of(graphs, self.node(nodes), end) for end in ("hidden", "read", "made")], -1))
        return made


def mean_of(graphs: Graphs, nodes: Tensor, end: str) -> Float[Tensor, "networks channels"]:
    """The mean over each network's inputs (`read`), outputs (`made`), or other nodes (`hidden`), nodes of parameters left out; 0 of none."""
    kind, side = graphs.codes.node_code[:, 0], graphs.codes.node_code[:, 2]
    is_end = (kind == NODES.index("neuron")) & ((side == SIDES.index("read")) | (side == SIDES.index("made")))
    chosen = is_end & (side == SIDES.index(end)) if end != "hidden" else ~is_end & (kind != NODES.index("parameter"))
    mask = graphs.nodes(chosen[:, None].to(nodes))
    share = graphs.mean_of_nodes(mask)
    return graphs.mean_of_nodes(nodes * mask) / torch.where(share > 0, share, torch.ones_like(share))


__all__ = ["Fourier", "NodeEncoder", "Readout", "WeightEncoder", "mean_of", "of_slots", "slot_scales"]
