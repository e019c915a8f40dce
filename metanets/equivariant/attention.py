"""Attention on weights: among the columns and rows that meet in a layer of neurons, and among the members of a set."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from weightspace.errors import MetanetError
from weightspace.metanets.equivariant.basis import Basis


class NPAttention(nn.Module):
    """Attention of Neural Functional Transformers (Zhou et al., arXiv:2305.13546), with a pointwise perceptron after it.

    For each layer of neurons the tokens are the columns of the weights before it, the vectors on it, and the rows of the weights after
    it, each a vector over the neurons; the scores are products over neurons and channels, so that they do not change with an order of
    the neurons. What comes out is added to the weights that the token was of. A last attention is among the means of all slots.
    """

    def __init__(self, basis: Basis, groups: Sequence[str], channels: int, heads: int) -> None:
        """Draw its weights.

        Args:
            basis: of a chain, nothing folded.
            groups: of the chain.
            channels: of each weight's feature.
            heads: of the attention.

        Raises:
            MetanetError: the heads do not divide the channels.
        """
        super().__init__()
        if heads < 1 or channels % heads:
            raise MetanetError(f"attention of {channels} channels cannot have {heads} heads; the heads have to divide the channels")
        self.heads, self.groups = heads, tuple(groups)
        self.axes = {group: [(key, f.groups.index(group)) for key, f in basis.frames.items() if group in f.groups] for group in groups}
        keys = list(basis.frames)
        self.queries = nn.ModuleList(nn.ModuleList(nn.Linear(channels, 3 * channels) for _ in self.axes[group]) for group in groups)
        self.means = nn.ModuleList(nn.Linear(channels, 3 * channels) for _ in keys)
        self.pointwise = nn.ModuleList(nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels)) for _ in keys)

    def forward(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Let the features of all slots attend to each other."""
        made = dict(zip(values, self._among_means(values), strict=True))
        for group, maps in zip(self.groups, self.queries, strict=True):
            tokens = [torch.movedim(values[key], 1 + axis, -2) for key, axis in self.axes[group]]
            asked = torch.cat(
                [
                    map_(one).flatten(1, -3) if one.ndim > 3 else map_(one)[:, None]
                    for map_, one in zip(maps.children(), tokens, strict=True)
                ],
                1,
            )
            found = torch.split(self._attend(asked), [one[0].numel() // (one.shape[-1] * one.shape[-2]) for one in tokens], 1)
            for (key, axis), one, part in zip(self.axes[group], tokens, found, strict=True):
                made[key] = made[key] + torch.movedim(part.reshape(one.shape), -2, 1 + axis)
        return {key: map_(made[key]) for key, map_ in zip(values, self.pointwise, strict=True)}

    def _attend(self, asked: Tensor) -> Tensor:
        """(networks, tokens, neurons, 3 x channels) to (networks, tokens, neurons, channels)."""
        networks, tokens, neurons, wide = asked.shape
        split = asked.view(networks, tokens, neurons, 3, self.heads, wide // (3 * self.heads))
        query, key, value = split.permute(3, 0, 4, 1, 2, 5).flatten(-2)
        attended = F.scaled_dot_product_attention(query, key, value)
        return attended.reshape(networks, self.heads, tokens, neurons, -1).permute(0, 2, 3, 1, 4).flatten(-2)

    def _among_means(self, values: Mapping[str, Tensor]) -> list[Tensor]:
        means = [map_(one.flatten(1, -2).mean(1)) for map_, one in zip(self.means, values.values(), strict=True)]
        attended = self._attend(torch.stack(means, 1)[:, :, None])[:, :, 0]
        return [attended[:, k].view(len(one), *(1 for _ in one.shape[1:-1]), -1).expand_as(one) for k, one in enumerate(values.values())]


class SetAttention(nn.Module):
    """Attention among the members of a set, after which each is mapped alone."""

    def __init__(self, read: int, written: int, *, width: int = 32, heads: int = 4) -> None:
        """Draw its weights.

        Args:
            read: channels of a member.
            written: channels that become of it.
            width: of the attention.
            heads: of the attention; they divide the width.
        """
        super().__init__()
        self.heads = heads
        self.inside, self.query, self.out = nn.Linear(read, width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.alone, self.leave = nn.Linear(read, written), nn.Linear(width, written)

    def forward(self, values: Tensor) -> Tensor:
        """(networks, members, channels read) to (networks, members, channels written)."""
        inside = self.inside(values)
        query, key, value = self.query(inside).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(-2)
        made: Tensor = self.alone(values) + self.leave(F.relu(inside + self.out(attended)))
        return made


__all__ = ["NPAttention", "SetAttention"]
