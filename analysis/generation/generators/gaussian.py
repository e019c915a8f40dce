"""A normal distribution of each parameter on its own: the density that a generator has to improve upon."""

import torch
from torch import Tensor

from weightspace.analysis.generation.generator import Progress, WeightGenerator, Wish, weight_generator
from weightspace.analysis.generation.latent.minimising import noise_like
from weightspace.analysis.generation.latent.standardising import Standard
from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.target import Target


@weight_generator("gaussian", learns=["networks"], reference="Zeng et al., arXiv:2506.07998, the Gaussian baseline")
class Gaussian(WeightGenerator):
    """Every parameter drawn on its own, with the mean and the standard deviation that it has over the zoo."""

    def __init__(self, target: Target, condition_shape: tuple[int, ...] | None = None, *, spread: float = 1.0) -> None:
        """Make it.

        Args:
            target: of the networks.
            condition_shape: none.
            spread: what deviations are multiplied by: 1 is the zoo's, 0 its mean, and what lies between the mean with some noise.
        """
        super().__init__(target, condition_shape)
        self.spread = spread
        self.standard = Standard(target.numel)

    def learn(self, material: Material, *, generator: torch.Generator, progress: Progress) -> None:
        """Measure the networks."""
        self.standard = Standard.of(material.flat())

    def sample(self, count: int, wish: Wish, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw every parameter."""
        noise = noise_like(self.standard.mean.expand(count, -1), generator)
        return self.target.tensors(self.standard.grow(self.spread * noise))
