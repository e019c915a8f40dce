"""Weight statistics: a few numbers of each tensor, the baseline that every other metanet has to beat."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import MetanetError
from weightspace.metanets.batch import WeightBatch, WeightSet
from weightspace.metanets.layout import Layout
from weightspace.metanets.metanet import MetaNet, metanet
from weightspace.metanets.standardise import Standardise

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of StatNN (Unterthiner et al., arXiv:2002.11448); mean and variance stand before them."""


@metanet("statistics", reference="arXiv:2002.11448", couples=False)
class Statistics(MetaNet):
    """Mean, variance and quantiles of each tensor, through a perceptron.

    The features are standardised over the networks trained on. Seven numbers a tensor (Unterthiner et al., arXiv:2002.11448): mean,
    unbiased variance, minimum, quartiles, maximum.
    """

    def __init__(self, layouts: Sequence[Layout], *, dim: int = 64, width: int = 128, dropout: float = 0.0) -> None:
        """Build it for one architecture.

        Args:
            layouts: of the one architecture.
            dim: length of the vector.
            width: of the hidden layer.
            dropout: share of hidden units left out in training.

        Raises:
            MetanetError: there are several architectures.
        """
        super().__init__()
        if len(layouts) != 1:
            raise MetanetError(f"metanet 'statistics' reads one architecture, found {len(layouts)}; build one for each")
        self.dim, self.names = dim, list(layouts[0].spec.tensors)
        features = len(self.names) * (2 + len(QUANTILES))
        self.standardise = Standardise(features)
        self.layers = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, dim))

    def fit_inputs(self, networks: WeightSet) -> None:
        """Take mean and deviation of the features over the networks to be trained on."""
        self.standardise.fit(torch.cat([statistics(batch) for batch in networks.batches]))

    def embed(self, batch: WeightBatch) -> Float[Tensor, "networks dim"]:
        """Read networks of one architecture."""
        made: Tensor = self.layers(self.standardise(statistics(batch)))
        return made


def statistics(batch: WeightBatch) -> Float[Tensor, "networks features"]:
    """Seven numbers of each tensor, tensor by tensor."""
    return torch.cat([_of(tensor.flatten(1)) for tensor in batch.tensors.values()], 1)


def _of(values: Float[Tensor, "networks params"]) -> Float[Tensor, "networks 7"]:
    quantiles = values.quantile(torch.tensor(QUANTILES, dtype=values.dtype, device=values.device), 1).T
    spread = values.var(1) if values.shape[1] > 1 else torch.zeros_like(values[:, 0])
    return torch.cat([values.mean(1, keepdim=True), spread[:, None], quantiles], 1)
