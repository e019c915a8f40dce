"""Raw weights: all numbers of a network in one row, read by one linear map; the control that detects shared initialisation."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import MetanetError
from weightspace.metanets.batch import WeightBatch, WeightSet
from weightspace.metanets.layout import Layout
from weightspace.metanets.metanet import MetaNet, metanet
from weightspace.metanets.standardise import Standardise


@metanet("raw", honours=())
class Raw(MetaNet):
    """All weights flattened, standardised over the networks trained on, through one linear map.

    It honours no symmetry. Where it does well, neurons stand in the same places in all networks: they share an initialisation. Trained
    with weight decay it is ridge regression, by logistic loss logistic regression.
    """

    def __init__(self, layouts: Sequence[Layout], *, dim: int = 16) -> None:
        """Build it for one architecture.

        Args:
            layouts: of the one architecture.
            dim: length of the vector.

        Raises:
            MetanetError: there are several architectures.
        """
        super().__init__()
        if len(layouts) != 1:
            raise MetanetError(f"metanet 'raw' reads one architecture, found {len(layouts)}; build one for each")
        self.dim = dim
        self.params = sum(math.prod(layouts[0].shape(slot)) for slot in layouts[0].slots)
        self.standardise = Standardise(self.params)
        self.linear = nn.Linear(self.params, dim)

    def fit_inputs(self, networks: WeightSet) -> None:
        """Take mean and deviation of each weight over the networks to be trained on."""
        self.standardise.fit(torch.cat([batch.flat() for batch in networks.batches]))

    def embed(self, batch: WeightBatch) -> Float[Tensor, "networks dim"]:
        """Read networks of the architecture.

        Raises:
            MetanetError: they have another number of parameters.
        """
        if batch.num_params != self.params:
            raise MetanetError(f"metanet 'raw' was built for {self.params} parameters, found networks of {batch.num_params}; build another")
        made: Tensor = self.linear(self.standardise(batch.flat()))
        return made


__all__ = ["Raw"]
