"""The decoder: from what is known of nodes to the tensors that they make."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.generation.fans import PLAIN, Fan
from weightspace.analysis.generation.graphs.graph import ArchitectureGraph, Role, Sizes, sizes_of
from weightspace.analysis.generation.graphs.normalisation import normalised
from weightspace.analysis.generation.target import Target


@dataclass(frozen=True)
class Order:
    """A tensor that is asked for.

    Attributes:
        node: that makes it, among those of all graphs.
        role: what it is there.
        shape: of the tensor.
        primitive: of the node.
        fan: how the tensor's fan-in follows from its shape.
    """

    node: int
    role: Role
    shape: tuple[int, ...]
    primitive: str
    fan: Fan = PLAIN

    @property
    def is_grid(self) -> bool:
        """Whether it has channels in and out."""
        return self.role == "matrix" or (self.role == "position" and len(self.shape) > 1)

    @property
    def sizes(self) -> Sizes:
        """Of its channels and its kernel; a position encoding has no kernel."""
        if self.role == "position":
            return sizes_of((torch.Size(self.shape[:-1]).numel(), self.shape[-1]))
        return sizes_of(self.shape)


class Decoder(nn.Module):
    """Weights from nodes (Knyazev et al., arXiv:2110.13100, section 3.1 and appendix A).

    A linear layer makes a grid of vectors, one for each cell of the largest kernel, of which the middle is cut out; two layers make
    of each vector the weights between `max_channels` outputs and as many inputs. Vectors come from a network of their own, scale and
    shift side by side. Where there are fewer channels than asked for, they are repeated, outputs first; where there are more, cut off.
    The layer that makes the outputs mixes the output channels once more. There the original has one row for each class of its data; we
    mix as many as there are channels and cut, so that the number of classes is as free as any other size. All layers start with
    Kaiming's variance, so that what is decoded starts with about unit variance, as normalisation wants it.
    """

    def __init__(self, hidden: int, *, width: int, max_channels: int, max_kernel: int, normalise: bool) -> None:
        """Make it.

        Args:
            hidden: features of a node.
            width: of the vector for each cell of a kernel; twice as much in the layer after.
            max_channels: that are made without repeating.
            max_kernel: rows and columns that are made; larger kernels are interpolated.
            normalise: whether parameters are normalised.
        """
        super().__init__()
        self.max_channels, self.max_kernel, self.normalise = max_channels, max_kernel, normalise
        self.grid = nn.Linear(hidden, width * max_kernel**2)
        self.channels = nn.Sequential(nn.ReLU(), nn.Linear(width, 2 * width), nn.ReLU(), nn.Linear(2 * width, max_channels**2))
        self.vectors = nn.Sequential(nn.Linear(hidden, 2 * width), nn.ReLU(), nn.Linear(2 * width, 2 * max_channels))
        self.classes, self.class_biases = nn.Linear(max_channels, max_channels), nn.Linear(max_channels, max_channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                is_first = module is self.grid or module is self.vectors[0]  # nothing was cut off at zero before
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if is_first else "relu")
                nn.init.zeros_(module.bias)

    def forward(self, nodes: Float[Tensor, "nodes dim"], orders: Sequence[Order]) -> list[Tensor]:
        """Make the tensors that are asked for."""
        grids, vectors = [one for one in orders if one.is_grid], [one for one in orders if not one.is_grid]
        made: dict[int, Tensor] = {}
        if vectors:
            rows = self.vectors(nodes[[one.node for one in vectors]]).unflatten(-1, (2, self.max_channels))
            made |= {id(one): self._vector(row, one) for one, row in zip(vectors, rows, strict=True)}
        for kernel in dict.fromkeys(one.sizes[2:] for one in grids):
            same = [one for one in grids if one.sizes[2:] == kernel]
            weights = self._kernels(nodes[[one.node for one in same]], kernel)
            made |= {id(one): self._matrix(weight, one) for one, weight in zip(same, weights, strict=True)}
        return [self._finished(made[id(one)], one) for one in orders]

    def _kernels(self, nodes: Float[Tensor, "nodes dim"], kernel: tuple[int, int]) -> Float[Tensor, "nodes out in rows columns"]:
        """Kernels of all channels; the layers act on each cell, so the rest of the grid is cut off before them."""
        grid = self.grid(nodes).unflatten(-1, (-1, self.max_kernel, self.max_kernel))
        for axis, size in enumerate(kernel, start=2):
            kept = min(size, self.max_kernel)
            grid = grid.narrow(axis, (self.max_kernel - kept) // 2, kept)
        cells: Tensor = self.channels(grid.permute(0, 2, 3, 1)).unflatten(-1, (self.max_channels, self.max_channels))
        return cells.permute(0, 3, 4, 1, 2)

    def _matrix(self, weight: Float[Tensor, "out in rows columns"], order: Order) -> Tensor:
        if order.primitive == "class_layer":
            weight = self.classes(weight.relu().movedim(0, -1)).movedim(-1, 0)
        out, into, *kernel = order.sizes
        if tuple(kernel) != weight.shape[2:]:
            weight = nn.functional.interpolate(weight, kernel, mode="bilinear")
        return _tiled(_tiled(weight, 0, out), 1, into)

    def _vector(self, row: Float[Tensor, "two channels"], order: Order) -> Tensor:
        vector = row[0] if order.role == "scale" else row[1]
        if order.primitive == "class_bias":
            vector = self.class_biases(vector.relu())
        return _tiled(vector, 0, torch.Size(order.shape).numel())

    def _finished(self, values: Tensor, order: Order) -> Tensor:
        values = values.reshape(order.shape)
        if not self.normalise:
            return values
        return normalised(values, order.role, order.shape, order.fan, is_grouped=order.primitive == "sep_conv")


def orders_of(graph: ArchitectureGraph, target: Target, first: int) -> list[Order]:
    """The tensors of one network, in their order.

    Args:
        graph: of the network.
        target: that the graph's parameters are the tensors of.
        first: the number of the graph's first node among those of all graphs.
    """
    made = []
    for name, shape in target.shapes.items():
        node, role = graph.tensors[name]
        made.append(Order(first + node, role, shape, graph.primitives[node], target.fans.get(name, PLAIN)))
    return made


def _tiled(values: Tensor, axis: int, size: int) -> Tensor:
    """Repeat values along an axis as often as needed, and cut what is too much."""
    times = -(-size // values.shape[axis])
    return torch.cat([values] * times, axis).narrow(axis, 0, size) if times > 1 else values.narrow(axis, 0, size)


__all__ = ["Decoder", "Order", "orders_of"]
