"""The plain hypernetwork: one perceptron from a condition to all parameters."""

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.generation.generator import weight_generator
from weightspace.analysis.generation.hypernetworks.condition_codes import Embedding
from weightspace.analysis.generation.hypernetworks.hypernetwork import Hypernetwork, perceptron
from weightspace.analysis.generation.hypernetworks.initialisation import means, spreads
from weightspace.analysis.generation.target import Target


@weight_generator("mlp", learns=["tasks"], takes=["condition"], reference="Ha et al., arXiv:1609.09106; Chang et al., ICLR 2020")
class PlainHypernetwork(Hypernetwork):
    """A perceptron from a condition's embedding to all parameters at once.

    The output layer starts so that generated matrices have the variance of an ordinary network (the idea of Hyperfan, Chang et al.,
    "Principled weight initialization for hypernetworks", ICLR 2020; there the variance is shared with generated biases, here these get the
    variance that torch gives to biases).
    """

    def __init__(
        self,
        target: Target,
        condition_shape: tuple[int, ...] | None = None,
        *,
        embedding: int = 16,
        hidden: int = 64,
        depth: int = 2,
        beta: float | None = None,
        steps: int = 2000,
        learning_rate: float = 1e-3,
        together: int = 4,
    ) -> None:
        """Make it.

        Args:
            target: of the networks.
            condition_shape: none for numbers of tasks; else of a vector.
            embedding: size of what is learned for a condition.
            hidden: size of a hidden layer.
            depth: hidden layers.
            beta: None learns all tasks at once; a number learns one after another, held by the output regulariser of that strength.
            steps: of Adam; for each task where they are learned in turn.
            learning_rate: of Adam.
            together: conditions a step.
        """
        code = Embedding(condition_shape, embedding)
        super().__init__(target, condition_shape, code, steps=steps, learning_rate=learning_rate, together=together, beta=beta)
        self.body = perceptron([embedding, *[hidden] * depth, target.numel])
        weight, bias = list(self.body.parameters())[-2:]
        with torch.no_grad():
            weight.mul_(spreads(target)[:, None])
            bias.copy_(means(target))

    def rows(self, codes: Float[Tensor, "networks size"]) -> Float[Tensor, "networks params"]:
        """Make all parameters in a row for each of several codes."""
        made: Tensor = self.body(codes)
        return made
