"""SANE: a transformer that encodes a network's weights as a sequence of tokens, and decodes them again."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import MetanetError
from weightspace.metanets.batch import WeightBatch, WeightSet
from weightspace.metanets.graphs.vectors import POSITION_CODES, waves
from weightspace.metanets.layout import Layout
from weightspace.metanets.metanet import MetaNet, metanet
from weightspace.metanets.tokens import Tokens, detokenise, longest_row, tokenise
from weightspace.metanets.views import noised, reordered

LONGEST = 288
"""Values in a token, at most, unless told otherwise: what the authors use for ResNet-18."""
PROJECTED = 30


@metanet("sane", reference="arXiv:2406.09997", honours=(), any_architecture=True)
class Sane(MetaNet):
    """Tokens of weights through a transformer; pretrained by `loss` to restore them, and to know a network in another order.

    Schürholt et al., Towards Scalable and Versatile Weight Space Learning (arXiv:2406.09997). It is not invariant: that neurons have no
    order it has to learn. We depart from it in that rows are multiplied by the root of their length, so that layers are of one
    scale; in codes for positions in place of tables, so that there is no longest sequence; in that tokens see each other within
    fixed windows; in that the mean over latents is contrasted, not a flattened window.
    """

    def __init__(
        self,
        layouts: Sequence[Layout],
        *,
        dim: int = 64,
        token: int = 0,
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
        window: int = 256,
        gamma: float = 0.05,
        temperature: float = 0.1,
        noise: float = 0.1,
    ) -> None:
        """Build it; it reads any architecture.

        Args:
            layouts: of the architectures to be trained on.
            dim: length of latents and of the vector, their mean.
            token: values in a token; 0 for the longest row of the layouts, but at most 288.
            width: of the transformers.
            heads: of attention.
            layers: of the encoder, and of the decoder.
            window: tokens that see each other.
            gamma: share of the contrast in the loss.
            temperature: of the contrast.
            noise: deviation of what each view is multiplied by.

        Raises:
            MetanetError: the width cannot be shared by the heads, or a window holds no token.
        """
        super().__init__()
        if window < 1:
            raise MetanetError(f"metanet 'sane' was given window={window}; expected 1 token or more")
        if width % heads:
            raise MetanetError(f"metanet 'sane' has width {width}, which {heads} heads cannot share; give a multiple of {heads}")
        rows = max(longest_row([(name, layout.spec.shape(name)) for name in layout.spec.tensors]) for layout in layouts)
        self.dim, self.token, self.window = dim, token or min(rows, LONGEST), window
        self.gamma, self.temperature, self.noise = gamma, temperature, noise
        self.scale = nn.Buffer(torch.ones(()))
        self.enter, self.place = nn.Linear(self.token, width), nn.Linear(3 * POSITION_CODES, width)
        self.encoder, self.latent = _transformer(width, heads, layers), nn.Linear(width, dim)
        self.back, self.place_back = nn.Linear(dim, width), nn.Linear(3 * POSITION_CODES, width)
        self.decoder, self.leave = _transformer(width, heads, layers), nn.Linear(width, self.token)
        steps = [part for size in (dim, PROJECTED) for part in (nn.Linear(size, PROJECTED), nn.LayerNorm(PROJECTED), nn.ReLU())]
        self.projection = nn.Sequential(*steps)

    @torch.no_grad()
    def fit_inputs(self, networks: WeightSet) -> None:
        """Take the root mean square of all rows' values, over the networks to be trained on."""
        found = [self.tokens(batch) for batch in networks.batches]
        total = sum(float(tokens.values.square().sum()) for tokens in found)
        count = sum(int(tokens.is_real.sum()) * len(tokens.values) for tokens in found)
        self.scale.mul_(max(total / max(1, count), 1e-12) ** 0.5)

    def tokens(self, batch: WeightBatch) -> Tokens:
        """The networks as tokens, brought to one scale."""
        found = tokenise(batch, self.token)
        return replace(found, values=found.values * self._scales(found))

    def encode(self, tokens: Tokens) -> Float[Tensor, "networks tokens dim"]:
        """The latent of each token."""
        made: Tensor = self.latent(self._seen(self.encoder, self.enter(tokens.values) + self.place(_codes(tokens))))
        return made

    def decode(self, latents: Float[Tensor, "networks tokens dim"], tokens: Tokens) -> Float[Tensor, "networks tokens size"]:
        """The values of tokens by their latents; of `tokens` only the positions are looked at."""
        made: Tensor = self.leave(self._seen(self.decoder, self.back(latents) + self.place_back(_codes(tokens))))
        return made

    def embed(self, batch: WeightBatch) -> Float[Tensor, "networks dim"]:
        """Read networks of one architecture: the mean of their latents."""
        return self.encode(self.tokens(batch)).mean(1)

    def reconstruct(self, batch: WeightBatch) -> WeightBatch:
        """Networks encoded and decoded again, in their shapes."""
        tokens = self.tokens(batch)
        return detokenise(self.decode(self.encode(tokens), tokens) / self._scales(tokens), batch)

    def loss(self, batch: WeightBatch, generator: torch.Generator | None = None) -> Float[Tensor, ""]:
        """What pretraining makes small, on networks of one architecture.

        Two views of each network, in other orders and with noise, are to be restored without the noise, and to be known for one
        another among the views of all. Only what tokens really hold is counted, not what fills them up.

        Args:
            batch: the networks.
            generator: source of chance.
        """
        restored, projected = [], []
        for tokens in [self.tokens(reordered(batch, generator)) for _ in range(2)]:
            latents = self.encode(replace(tokens, values=noised(tokens.values, self.noise, generator)))
            errors = (self.decode(latents, tokens) - tokens.values).square()[:, tokens.is_real]
            restored.append(errors.mean())
            projected.append(self.projection(latents.mean(1)))
        contrast = nt_xent(projected[0], projected[1], self.temperature)
        return self.gamma * contrast + (1 - self.gamma) * torch.stack(restored).mean()

    def _scales(self, tokens: Tokens) -> Float[Tensor, "tokens 1"]:
        return tokens.lengths.to(tokens.values).sqrt()[:, None] / self.scale

    def _seen(self, transformer: nn.TransformerEncoder, states: Float[Tensor, "networks tokens width"]) -> Tensor:
        """States through a transformer, window by window; what fills up the last window is not looked at."""
        count, tokens, width = states.shape
        size = min(self.window, tokens)
        windows = -(-tokens // size)
        padded = F.pad(states, (0, 0, 0, windows * size - tokens)).reshape(count * windows, size, width)
        filler = (torch.arange(windows * size, device=states.device) >= tokens).reshape(windows, size).repeat(count, 1)
        made: Tensor = transformer(padded, src_key_padding_mask=filler if windows * size > tokens else None)
        return made.reshape(count, windows * size, width)[:, :tokens]


def nt_xent(first: Float[Tensor, "networks dim"], second: Float[Tensor, "networks dim"], temperature: float = 0.1) -> Float[Tensor, ""]:
    """Cross entropy of finding, for each view, the other one of the same network among all views (Chen et al., arXiv:2002.05709)."""
    views = F.normalize(torch.cat([first, second]), dim=1)
    alike = views @ views.T / temperature
    alike = alike.masked_fill(torch.eye(len(views), dtype=torch.bool, device=views.device), -math.inf)
    return F.cross_entropy(alike, torch.arange(len(views), device=views.device).roll(len(first)))


def _transformer(width: int, heads: int, layers: int) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
    return nn.TransformerEncoder(layer, layers, norm=nn.LayerNorm(width), enable_nested_tensor=False)


def _codes(tokens: Tokens) -> Float[Tensor, "tokens codes"]:
    """Codes of the three positions of each token."""
    return waves(tokens.positions.to(tokens.values), 1000.0).flatten(1)


__all__ = ["PROJECTED", "Sane", "nt_xent"]
