"""How an ordinary network starts: mean and spread of every parameter before training."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

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

    Matrices and kernels get sqrt(2 / fan-in) (He et al., arXiv:1502.01852); vectors sqrt(1 / (3 fan-in)) of the matrix in their layer, which is
    what torch gives to biases.
    """
    return _filled(target, {name: _spread(target, name) for name in target.shapes})


def ordinary(target: Target) -> Float[Tensor, " params"]:
    """Draw a network from torch's default generator as training would start it: matrices by their spreads, vectors at their means."""
    is_matrix = _filled(target, {name: float(len(shape) > 1) for name, shape in target.shapes.items()})
    return means(target) + spreads(target) * is_matrix * torch.randn(target.numel)


def _spread(target: Target, name: str) -> float:
    if len(target.shapes[name]) > 1:
        return math.sqrt(2 / math.prod(target.shapes[name][1:]))
    layer = name.rpartition(".")[0]
    beside = [shape for other, shape in target.shapes.items() if other.rpartition(".")[0] == layer and len(shape) > 1]
    return math.sqrt(1 / (3 * math.prod(beside[0][1:]))) if beside else LONE


def _filled(target: Target, values: dict[str, float]) -> Tensor:
    return target.flat({name: torch.full(shape, values[name]) for name, shape in target.shapes.items()})


__all__ = ["means", "ordinary", "spreads"]
