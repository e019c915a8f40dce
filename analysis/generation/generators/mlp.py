"""The plain hypernetwork: one perceptron from a condition to all parameters."""

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.generation.generator import weight_generator
from weightspace.analysis.generation.hypernetworks.hypernetwork import EmbeddingHypernetwork, perceptron
from weightspace.analysis.generation.hypernetworks.initialisation import means, spreads
from weightspace.analysis.generation.target import Target


@weight_generator("mlp", learns=["tasks"], takes=["condition"], reference="Ha et al., arXiv:1609.09106; Chang et al., ICLR 2020")
class PlainHypernetwork(EmbeddingHypernetwork):
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
        look_ahead: bool = False,
        at_once: int | None = None,
        steps: int = 2000,
        learning_rate: float = 1e-3,
        together: int = 4,
    ) -> None:
        """Make it.

        Args:
            target: of the networks.
            condition_shape: see `EmbeddingHypernetwork`.
            embedding: see `EmbeddingHypernetwork`.
            hidden: size of a hidden layer.
            depth: hidden layers.
            beta: see `EmbeddingHypernetwork`.
            look_ahead: see `EmbeddingHypernetwork`.
            at_once: see `EmbeddingHypernetwork`.
            steps: see `EmbeddingHypernetwork`.
            learning_rate: see `EmbeddingHypernetwork`.
            together: see `EmbeddingHypernetwork`.
        """
        super().__init__(
            target,
            condition_shape,
            embedding=embedding,
            beta=beta,
            look_ahead=look_ahead,
            at_once=at_once,
            steps=steps,
            learning_rate=learning_rate,
            together=together,
        )
        self.body = perceptron([embedding, *[hidden] * depth, target.numel])
        weight, bias = list(self.body.parameters())[-2:]
        with torch.no_grad():
            weight.mul_(spreads(target)[:, None])
            bias.copy_(means(target))

    def rows(self, codes: Float[Tensor, "networks size"]) -> Float[Tensor, "networks params"]:
        """Make all parameters in a row for each of several codes."""
        made: Tensor = self.body(codes)
        return made
