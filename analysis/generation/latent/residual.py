"""A residual perceptron of vectors that is told something before each of its blocks."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn


class Residual(nn.Module):
    """Blocks of layer norm and a two-layer perceptron, each added to what it is given; what is known besides is added before each."""

    def __init__(self, size: int, *, width: int, blocks: int, tell: Callable[[int], nn.Module], is_normed: bool) -> None:
        """Make it.

        Args:
            size: of the vectors, and of what is made of them.
            width: of all hidden layers.
            blocks: residual ones.
            tell: makes, for the width, the module that turns what is known of vectors into what is added.
            is_normed: whether what the last block made is normalised before the last layer.
        """
        super().__init__()
        self.enter = nn.Linear(size, width)
        self.tell = tell(width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), *two_layers(width, width)) for _ in range(blocks))
        self.norm = nn.LayerNorm(width) if is_normed else nn.Identity()
        self.leave = nn.Linear(width, size)

    def forward(self, vectors: Float[Tensor, "vectors size"], *known: Any) -> Float[Tensor, "vectors size"]:
        """Make vectors of vectors.

        Args:
            vectors: that are changed.
            known: what `tell` takes.
        """
        hidden, told = self.enter(vectors), self.tell(*known)
        for block in self.blocks:
            hidden = hidden + block(hidden + told)
        made: Tensor = self.leave(self.norm(hidden))
        return made


def two_layers(inputs: int, width: int) -> nn.Sequential:
    """A perceptron of one hidden layer."""
    return nn.Sequential(nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width))


__all__ = ["Residual", "two_layers"]
