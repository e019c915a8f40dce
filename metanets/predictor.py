"""A predictor: a metanet with a head, and how far its predictions were off where it was not trained."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import MetanetError
from weightspace.metanets.batch import WeightBatch, WeightSet
from weightspace.metanets.examples import Examples
from weightspace.metanets.heads import Head, heads
from weightspace.metanets.metanet import MetaNet
from weightspace.metanets.standardise import BatchStandardise, Standardise

NET = "net."
"""What the names of the metanet's tensors begin with among a predictor's."""

ENOUGH = 256
"""Networks that mean and deviation of vectors are measured on."""


class Predictor(nn.Module):
    """A metanet and a head; with covariates the head sees them beside the metanet's vector.

    Attributes:
        residuals: how far predictions were off on networks not trained on, ascending; empty before `calibrate`.
    """

    def __init__(self, net: MetaNet, head: str = "regression", *, covariates: int = 0, **settings: Any) -> None:
        """Put a head on a metanet.

        Args:
            net: the metanet.
            head: name of the head (see `heads`).
            covariates: how many numbers besides the vector the head sees.
            settings: of the head.

        Raises:
            UnknownNameError: there is no such head.
        """
        super().__init__()
        self.net = net
        self.head_recipe = {"head": head, "covariates": covariates, "settings": settings}
        self.standardise = BatchStandardise(net.dim) if net.is_faint else nn.Identity()
        self.mix = nn.Sequential(nn.Linear(net.dim + covariates, net.dim), nn.ReLU()) if covariates else nn.Identity()
        self.head: Head = heads[head](net.dim, **settings)
        self.covariates = Standardise(covariates)
        self.residuals = nn.Buffer(torch.zeros(0))

    @property
    def own_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of the tensors that are not the metanet's, by name."""
        return {name: tuple(tensor.shape) for name, tensor in self.state_dict().items() if not name.startswith(NET)}

    def fit_inputs(self, examples: Examples) -> None:
        """Look at the examples to be trained on, once and before training."""
        self.net.fit_inputs(examples.networks)
        self.head.fit_targets(examples.targets)
        if examples.covariates is not None:
            self.covariates.fit(examples.covariates)

    @torch.no_grad()
    def settle(self, examples: Examples) -> None:
        """Measure on networks trained on what training takes from each batch; before predictions, whenever parameters have changed."""
        if isinstance(self.standardise, BatchStandardise):
            was, _ = self.training, self.eval()
            self.standardise.fit(self.net(examples.take(torch.arange(min(len(examples), ENOUGH))).networks))
            self.train(was)

    def vectors(self, networks: WeightSet | WeightBatch, covariates: Tensor | None = None) -> Float[Tensor, "networks dim"]:
        """What the head sees.

        Raises:
            MetanetError: covariates are missing, or are given where none were trained with.
        """
        expected = self.head_recipe["covariates"]
        found = 0 if covariates is None else covariates.shape[1]
        if found != expected:
            raise MetanetError(f"the predictor was made for {expected} covariates, found {found}; give as many")
        vectors: Tensor = self.standardise(self.net(networks))
        if covariates is not None:
            vectors = torch.cat([vectors, self.covariates(covariates.to(vectors))], 1)
        mixed: Tensor = self.mix(vectors)
        return mixed

    def loss(self, examples: Examples) -> Float[Tensor, ""]:
        """What is lost on some examples, in mean."""
        return self.head.loss(self.vectors(examples.networks, examples.covariates), examples.targets.to(torch.get_default_dtype()))

    forward = loss  # what distributed training wraps

    @torch.no_grad()
    def predict(self, networks: WeightSet, covariates: Tensor | None = None, *, batch_size: int = 256) -> Float[Tensor, " networks"]:
        """The target of each network."""
        was, _ = self.training, self.eval()
        at = torch.split(torch.arange(len(networks)), batch_size)
        found = [
            self.head.predict(self.vectors(networks.take(some), None if covariates is None else covariates[some])).cpu() for some in at
        ]
        self.train(was)
        return torch.cat(found)

    def judge(self, examples: Examples) -> dict[str, float]:
        """Metrics on some examples."""
        return self.head.judge(self.predict(examples.networks, examples.covariates), examples.targets.cpu())

    def calibrate(self, examples: Examples) -> None:
        """Keep how far predictions are off on examples not trained on, for `interval`."""
        off = (self.predict(examples.networks, examples.covariates) - examples.targets.cpu()).abs().sort().values
        self.residuals = nn.Buffer(off.to(self.residuals))

    def interval(self, level: float = 0.9) -> float:
        """Half the width of an interval around a prediction that holds the truth with a probability of `level`.

        Split conformal prediction (Lei et al., arXiv:1604.04173): the ceil((n + 1) level)-th smallest error of n networks not trained on;
        infinite where n is too small. It holds for networks drawn as those were. Where those also chose when training ended, it is
        a little too narrow.

        Raises:
            MetanetError: it was not calibrated.
        """
        count = len(self.residuals)
        if count == 0:
            raise MetanetError("the predictor was not calibrated, so its errors are unknown; calibrate it on networks not trained on")
        place = math.ceil((count + 1) * level)
        return float(self.residuals[place - 1]) if place <= count else math.inf


__all__ = ["Predictor"]
