"""The magnitude-invariant hypernetwork: conditions of constant norm change the weights of an ordinary network."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.generation.generator import Progress, weight_generator
from weightspace.analysis.generation.hypernetworks.condition_codes import Values
from weightspace.analysis.generation.hypernetworks.hypernetwork import Hypernetwork
from weightspace.analysis.generation.hypernetworks.initialisation import means, ordinary, spreads
from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.target import Target


@weight_generator("mip", learns=["tasks"], takes=["condition"], reference="Gonzalez Ortiz et al., arXiv:2304.07645")
class MagnitudeInvariantHypernetwork(Hypernetwork):
    r"""A perceptron whose outputs are as large as its inputs, kept from being so by two means, each a switch.

        theta = theta_0 + V h([cos(pi g / 2), sin(pi g / 2)]),  g in [0, 1]^k

    The encoding gives every condition g the norm sqrt(k). In the residual form theta_0 starts as an ordinary network, or as the first one of
    the material, and V so small that it hardly changes it; without it theta_0 starts at zero (ones for the scales of norm layers), and V such
    that generated matrices have the variance of an ordinary network (there the paper leaves V as small, which is worse).
    Layers are leaky rectifiers without norms, initialised by fan-out.
    """

    def __init__(
        self,
        target: Target,
        condition_shape: tuple[int, ...] | None = None,
        *,
        encoding: bool = True,
        residual: bool = True,
        hidden: int = 64,
        depth: int = 3,
        steps: int = 2000,
        learning_rate: float = 1e-3,
        together: int = 4,
    ) -> None:
        """Make it.

        Args:
            target: of the networks.
            condition_shape: of one condition, values from 0 to 1 (any without the encoding); None without conditions.
            encoding: whether conditions are encoded.
            residual: whether theta_0 starts as an ordinary network.
            hidden: size of a hidden layer.
            depth: hidden layers.
            steps: of Adam.
            learning_rate: of Adam.
            together: conditions a step.
        """
        code = Values(condition_shape, on_circle=encoding)
        super().__init__(target, condition_shape, code, steps=steps, learning_rate=learning_rate, together=together)
        self.residual = residual
        sizes = [code.size, *[hidden] * depth]
        self.body = _body(sizes)
        self.theta0 = nn.Parameter(ordinary(target) if residual else means(target))
        is_drawn = condition_shape is not None and not encoding  # evenly from 0 to 1; the code of no condition is a constant
        norm = math.sqrt(code.values / 3 if is_drawn else code.values)  # of a code; the body keeps it
        spread = _small(target) if residual else spreads(target) / norm
        self.change = nn.Parameter(spread[:, None] * torch.randn(target.numel, sizes[-1]))

    def learn(self, material: Material, *, generator: torch.Generator, progress: Progress) -> None:
        """Start at the first network, where there is one, then learn through the tasks."""
        if material.networks is not None and self.residual:
            with torch.no_grad():
                self.theta0.copy_(material.flat()[0])
        super().learn(material, generator=generator, progress=progress)

    def rows(self, codes: Float[Tensor, "networks size"]) -> Float[Tensor, "networks params"]:
        """Make all parameters in a row for each of several codes."""
        return nn.functional.linear(self.body(codes.to(self.theta0)), self.change, self.theta0)


def _small(target: Target) -> Float[Tensor, " params"]:
    """Standard deviations of V: by fan-out, as if each tensor were made by a layer of its own; vectors start unchanged."""
    sizes = {name: math.sqrt(2 / math.prod(shape)) if len(shape) > 1 else 0.0 for name, shape in target.shapes.items()}
    return target.flat({name: torch.full(shape, sizes[name]) for name, shape in target.shapes.items()})


def _body(sizes: Sequence[int]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.kaiming_normal_(linear.weight, mode="fan_out", nonlinearity="leaky_relu")
        nn.init.zeros_(linear.bias)
        parts += [linear, nn.LeakyReLU()]
    return nn.Sequential(*parts)
