"""The chunked hypernetwork: one small perceptron makes all parameters, a chunk at a time."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.generation.generator import weight_generator
from weightspace.analysis.generation.hypernetworks.hypernetwork import EmbeddingHypernetwork, perceptron
from weightspace.analysis.generation.hypernetworks.initialisation import Start
from weightspace.analysis.generation.target import Target


@weight_generator("chunked", learns=["tasks"], takes=["condition"], reference="von Oswald et al., arXiv:1906.00695")
class ChunkedHypernetwork(EmbeddingHypernetwork):
    """A perceptron from the embeddings of a condition and of a chunk to the parameters of that chunk.

    All chunks are made at once, laid in a row and cut to length. One output layer serves all chunks, which cut across tensors, so no
    initialisation of it gives every tensor its own variance: each parameter is multiplied by a fixed spread instead, that of an ordinary
    network. This is a departure from the paper.
    """

    def __init__(
        self,
        target: Target,
        condition_shape: tuple[int, ...] | None = None,
        *,
        chunk: int = 256,
        embedding: int = 16,
        hidden: int = 32,
        depth: int = 2,
        beta: float | None = None,
        look_ahead: bool = False,
        at_once: int | None = None,
        steps: int = 2000,
        learning_rate: float = 3e-3,
        together: int = 4,
    ) -> None:
        """Make it.

        Args:
            target: of the networks.
            condition_shape: see `EmbeddingHypernetwork`.
            chunk: parameters that are made at a time.
            embedding: size of what is learned for a condition, and for a chunk.
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
        self.chunks = nn.Parameter(torch.randn(math.ceil(target.numel / chunk), embedding))
        self.body = perceptron([2 * embedding, *[hidden] * depth, chunk])
        self.start = Start(target)

    def rows(self, codes: Float[Tensor, "networks size"]) -> Float[Tensor, "networks params"]:
        """Make all parameters in a row for each of several codes."""
        shape = (len(codes), *self.chunks.shape)
        inputs = torch.cat([codes[:, None].expand(shape), self.chunks.expand(shape)], 2)
        made: Tensor = self.start(self.body(inputs).flatten(1)[:, : self.target.numel])
        return made
