"""A transformer of plain layers, so that it runs under torch.func's vmap and grad, whose attention may be biased."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import GenerationError


class Transformer(nn.Module):
    """Attention and a perceptron in turn, each on normalised tokens and added to them."""

    def __init__(self, dim: int, *, layers: int, heads: int) -> None:
        """Make it.

        Args:
            dim: of the tokens.
            layers: attention with its perceptron, each.
            heads: of each attention.

        Raises:
            GenerationError: the heads do not divide the tokens.
        """
        super().__init__()
        if heads < 1 or dim % heads:
            raise GenerationError(f"tokens of {dim} numbers cannot have {heads} heads of attention; the heads have to divide them")
        self.attention = nn.ModuleList(_Attention(dim, heads) for _ in range(layers))
        self.perceptrons = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)) for _ in range(layers)
        )

    def forward(
        self, tokens: Float[Tensor, "*batch tokens dim"], bias: Float[Tensor, "*batch heads tokens tokens"] | None = None
    ) -> Float[Tensor, "*batch tokens dim"]:
        """Let all tokens read all.

        Args:
            tokens: that read and are read.
            bias: added to how much each token (row) attends to each, in every layer; minus infinity is not at all.
        """
        for attention, perceptron in zip(self.attention, self.perceptrons, strict=True):
            tokens = tokens + attention(tokens, bias)
            tokens = tokens + perceptron(tokens)
        return tokens


class _Attention(nn.Module):
    """Softmax attention of several heads."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.asked, self.made = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, tokens: Tensor, bias: Tensor | None) -> Tensor:
        parts = self.asked(self.norm(tokens)).unflatten(-1, (3, self.heads, -1))
        query, key, value = (parts.select(-3, at).transpose(-3, -2) for at in range(3))
        likeness = query @ key.mT / query.shape[-1] ** 0.5  # torch's own attention has no rule for vmap on every device
        share = torch.softmax(likeness if bias is None else likeness + bias, -1)
        made: Tensor = self.made((share @ value).transpose(-3, -2).flatten(-2))
        return made


__all__ = ["Transformer"]
