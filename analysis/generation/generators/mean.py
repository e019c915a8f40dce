"""The plain mean of the networks: the baseline that most often embarrasses a generator."""

import math

import torch
from torch import Tensor, nn

from weightspace.analysis.generation.generator import Progress, WeightGenerator, Wish, weight_generator
from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.target import Target


@weight_generator("mean", learns=["networks"], reference="Zeng et al., arXiv:2506.07998, the averaging baseline")
class Mean(WeightGenerator):
    """The mean of networks drawn anew for each that is made; of all of them where fewer were given."""

    def __init__(self, target: Target, condition_shape: tuple[int, ...] | None = None, *, of: int = 16) -> None:
        """Make it.

        Args:
            target: of the networks.
            condition_shape: none.
            of: networks that are averaged, drawn without replacement; 0 is all.
        """
        super().__init__(target, condition_shape)
        self.of = of
        self.networks = nn.Buffer(torch.zeros(0, target.numel))

    def learn(self, material: Material, *, generator: torch.Generator, progress: Progress) -> None:
        """Keep the networks."""
        self.networks = nn.Buffer(material.flat().clone())

    def sample(self, count: int, wish: Wish, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Average networks."""
        total = len(self.networks)
        most = min(self.of or total, total)
        drawn = torch.stack([torch.randperm(total, generator=generator)[:most] for _ in range(count)])
        made = self.target.tensors(torch.stack([self.networks[at].mean(0) for at in drawn]))
        for name in self.target.logarithms:  # the mean of variances, not of their logarithms
            each = self.target.tensors(self.networks[drawn])[name]
            made[name] = each.logsumexp(1) - math.log(most)
        return made
