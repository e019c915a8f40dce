"""Adapters as inputs: metanets that read the low-rank updates of one base, whichever factors stand for them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.metanets.batch import WeightBatch, WeightSet
from weightspace.metanets.layout import Layout
from weightspace.metanets.low_rank import SPECTRUM, factors, pairs_in, pairs_of, singular, spectrum
from weightspace.metanets.metanet import MetaNet, metanet
from weightspace.metanets.standardise import Standardise


@metanet("lora_svd", reference="arXiv:2603.15990", honours=("permutation", "linear"), any_architecture=True)
class LoraSvd(MetaNet):
    """Singular vectors of each update as tokens, by QR and SVD of its factors; the sign of a pair of vectors makes no difference.

    After Weight2Token (Han et al., arXiv:2603.15990). A token's vectors are projected for each module, and read as they are and
    negated; tokens are weighed by their singular values, so that those of zero, whose vectors mean nothing, count for nothing,
    and any rank can be read. We pool by module and join the modules by a perceptron in place of a transformer. Tensors beside
    the pairs are not looked at.
    """

    def __init__(self, layouts: Sequence[Layout], *, dim: int = 64, width: int = 64, count: int = 16) -> None:
        """Build it for adapters of one base, of any rank.

        Args:
            layouts: of their specs (see `weightspace.metanets.low_rank.adapter_spec`).
            dim: length of the vector.
            width: of projections and hidden layers.
            count: singular values that are told, the largest.

        Raises:
            MetanetError: they are no adapters, or of several bases.
        """
        super().__init__()
        pairs = pairs_of(layouts, "lora_svd")
        self.dim, self.count, self.updates = dim, count, [pair.update for pair in pairs]
        self.standardise = Standardise(len(pairs) * (SPECTRUM + count))
        self.left = nn.ModuleList(nn.Linear(pair.rows, width, bias=False) for pair in pairs)
        self.right = nn.ModuleList(nn.Linear(pair.columns, width, bias=False) for pair in pairs)
        for layer in [*self.left, *self.right]:
            nn.init.normal_(layer.weight)  # of unit vectors it makes features of unit size
        self.share = nn.Linear(1, width)
        self.token = nn.Linear(width, width)
        features = len(pairs) * (width + SPECTRUM + count)
        self.layers = nn.Sequential(nn.Linear(features, 2 * width), nn.SiLU(), nn.Linear(2 * width, dim))

    def fit_inputs(self, networks: WeightSet) -> None:
        """Take mean and deviation of the spectra over the adapters to be trained on."""
        self.standardise.fit(torch.cat([self._read(batch)[1] for batch in networks.batches]))

    def embed(self, batch: WeightBatch) -> Float[Tensor, "networks dim"]:
        """Read adapters of one rank.

        Raises:
            MetanetError: they are of another base, or a value is not finite.
        """
        tokens, spectra = self._read(batch)
        made: Tensor = self.layers(torch.cat([*tokens, self.standardise(spectra)], 1))
        return made

    def _read(self, batch: WeightBatch) -> tuple[list[Float[Tensor, "networks width"]], Float[Tensor, "networks features"]]:
        """The tokens of each update, pooled, and the spectra of all."""
        tokens, spectra = [], []
        like = next(iter(batch.tensors.values()))
        for at, pair in enumerate(pairs_in(batch, self.updates, "lora_svd")):
            found = singular(*factors(batch, pair))
            share = (found.s / found.s.sum(1, keepdim=True).clamp_min(torch.finfo(found.s.dtype).tiny)).to(like)
            vectors = self.left[at](found.u.mT.to(like)) + self.right[at](found.v.mT.to(like))
            told = self.share(share[..., None])
            both = nn.functional.silu(told + vectors) + nn.functional.silu(told - vectors)
            tokens.append((self.token(both) * share[..., None]).sum(1))
            spectra.append(spectrum(found.s, self.count).to(like))
        return tokens, torch.cat(spectra, 1)


@metanet("lora_products", reference="arXiv:2410.04207", honours=("permutation", "linear"), any_architecture=True)
class LoraProducts(MetaNet):
    """Each update seen from both sides through fixed random projections, with its singular values, through a perceptron.

    After Putterman et al., Learning on LoRAs (arXiv:2410.04207), whose features that no matrix between the factors changes are the
    product `B A` and its singular values. Here the product is never made: `(P B)(A Q)` for random P and Q, divided by its norm.
    Tensors beside the pairs are not looked at.
    """

    def __init__(self, layouts: Sequence[Layout], *, dim: int = 64, width: int = 128, projections: int = 8, count: int = 16) -> None:
        """Build it for adapters of one base, of any rank.

        Args:
            layouts: of their specs (see `weightspace.metanets.low_rank.adapter_spec`).
            dim: length of the vector.
            width: of the hidden layer.
            projections: on each side of an update.
            count: singular values that are told, the largest.

        Raises:
            MetanetError: they are no adapters, or of several bases.
        """
        super().__init__()
        pairs = pairs_of(layouts, "lora_products")
        self.dim, self.count, self.updates = dim, count, [pair.update for pair in pairs]
        self.left = nn.Buffer(torch.randn(projections, sum(pair.rows for pair in pairs)))
        self.right = nn.Buffer(torch.randn(projections, sum(pair.columns for pair in pairs)))
        features = len(pairs) * (projections**2 + SPECTRUM + count)
        self.standardise = Standardise(features)
        self.layers = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, dim))

    def fit_inputs(self, networks: WeightSet) -> None:
        """Take mean and deviation of the features over the adapters to be trained on."""
        self.standardise.fit(torch.cat([self.features(batch) for batch in networks.batches]))

    def embed(self, batch: WeightBatch) -> Float[Tensor, "networks dim"]:
        """Read adapters of one rank.

        Raises:
            MetanetError: they are of another base, or a value is not finite.
        """
        made: Tensor = self.layers(self.standardise(self.features(batch)))
        return made

    @torch.no_grad()
    def features(self, batch: WeightBatch) -> Float[Tensor, "networks features"]:
        """What no matrix between the factors changes: projected products and spectra, update by update."""
        pairs, found = pairs_in(batch, self.updates, "lora_products"), []
        lefts = torch.split(self.left, [pair.rows for pair in pairs], 1)
        rights = torch.split(self.right, [pair.columns for pair in pairs], 1)
        for pair, left, right in zip(pairs, lefts, rights, strict=True):
            b, a = factors(batch, pair)
            s = singular(b, a).s
            product = (left.to(b) @ b) @ (a @ right.to(a).mT)
            norm = s.square().sum(1).sqrt().clamp_min(torch.finfo(s.dtype).tiny)
            found += [(product / norm[:, None, None]).flatten(1), spectrum(s, self.count)]
        return torch.cat(found, 1).to(next(iter(batch.tensors.values())))


__all__ = ["LoraProducts", "LoraSvd"]
