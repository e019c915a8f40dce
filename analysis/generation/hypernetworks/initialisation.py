"""How an ordinary network starts: mean and spread of every parameter before training."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.generation.fans import PLAIN
from weightspace.analysis.generation.target import Target

ONES = ("weight", "running_var", "gamma", "scale")
"""Last parts of names under which a tensor of one dimension starts at ones: scales of norm layers, running variances."""

LONE = 0.1
"""The spread of vectors that stand in no layer with a matrix."""


def means(target: Target) -> Float[Tensor, " params"]:
    """The mean of each parameter at the start: 1 for scales and variances of norm layers, else 0."""
    return _filled(target, {name: float(len(shape) == 1 and name.rpartition(".")[2] in ONES) for name, shape in target.shapes.items()})


def spreads(target: Target) -> Float[Tensor, " params"]:
    """The standard deviation that generated parameters should start with.

    Matrices and kernels get sqrt(2 / fan-in) (He et al., arXiv:1502.01852), tables of embeddings 1, since nothing was cut off at zero before
    a row is looked up; vectors get sqrt(1 / (3 fan-in)) of the matrix in their layer, which is what torch gives to biases.
    """
    return _filled(target, {name: _spread(target, name) for name in target.shapes})


def ordinary(target: Target) -> Float[Tensor, " params"]:
    """Draw a network from torch's default generator as training would start it: matrices by their spreads, vectors at their means."""
    is_matrix = _filled(target, {name: float(len(shape) > 1) for name, shape in target.shapes.items()})
    return means(target) + spreads(target) * is_matrix * torch.randn(target.numel)


class Start(nn.Module):
    """Brings parameters that were made with mean 0 and variance 1 to the means and spreads of an ordinary network."""

    def __init__(self, target: Target) -> None:
        """Make it for a target."""
        super().__init__()
        self.means, self.spreads = nn.Buffer(means(target)), nn.Buffer(spreads(target))

    def forward(self, made: Float[Tensor, "*networks params"]) -> Float[Tensor, "*networks params"]:
        """Shift and scale."""
        return torch.addcmul(self.means, self.spreads, made)


def _spread(target: Target, name: str) -> float:
    if len(target.shapes[name]) > 1:
        gain = 1 if target.fans.get(name, PLAIN).kind == "table" else 2
        return math.sqrt(gain / target.fan_in(name))
    layer = name.rpartition(".")[0]
    beside = [other for other, shape in target.shapes.items() if other.rpartition(".")[0] == layer and len(shape) > 1]
    return math.sqrt(1 / (3 * target.fan_in(beside[0]))) if beside else LONE


def _filled(target: Target, values: dict[str, float]) -> Tensor:
    return target.flat({name: torch.full(shape, values[name]) for name, shape in target.shapes.items()})


__all__ = ["Start", "means", "ordinary", "spreads"]
