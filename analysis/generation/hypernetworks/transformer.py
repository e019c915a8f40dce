"""A transformer of plain layers, so that it runs under torch.func's vmap and grad."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import GenerationError


class Transformer(nn.Module):
    """Attention and a perceptron in turn, each on normalised tokens and added to them; normalised once more at the end."""

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
        self.norm = nn.LayerNorm(dim)

    def forward(self, tokens: Float[Tensor, "*batch tokens dim"]) -> Float[Tensor, "*batch tokens dim"]:
        """Let all tokens read all."""
        for attention, perceptron in zip(self.attention, self.perceptrons, strict=True):
            tokens = tokens + attention(tokens)
            tokens = tokens + perceptron(tokens)
        normalised: Tensor = self.norm(tokens)
        return normalised


class _Attention(nn.Module):
    """Softmax attention of several heads."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(dim)
        self.asked, self.made = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        parts = self.asked(self.norm(tokens)).unflatten(-1, (3, self.heads, -1))
        query, key, value = (parts.select(-3, at).transpose(-3, -2) for at in range(3))
        share = torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1)  # torch's own attention has no rule for vmap on every device
        made: Tensor = self.made((share @ value).transpose(-3, -2).flatten(-2))
        return made


__all__ = ["Transformer"]
