"""A network of the zoo with noise on it: the baseline that any claim of new weights has to beat."""

import torch
from torch import Tensor, nn

from weightspace.analysis.generation.generator import Progress, WeightGenerator, Wish, weight_generator
from weightspace.analysis.generation.latent.minimising import noise_like
from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.target import Target


@weight_generator("noise", learns=["networks"], reference="Zeng et al., arXiv:2506.07998, the noise baseline")
class Noise(WeightGenerator):
    """A network drawn from the zoo, with normal noise added to every parameter."""

    def __init__(
        self, target: Target, condition_shape: tuple[int, ...] | None = None, *, sigma: float = 0.02, relative: bool = False
    ) -> None:
        """Make it.

        Args:
            target: of the networks.
            condition_shape: none.
            sigma: standard deviation of the noise, the same for all parameters as in the paper.
            relative: whether it is counted in standard deviations of the tensor that it is added to, over that tensor's entries.
        """
        super().__init__(target, condition_shape)
        self.sigma, self.relative = sigma, relative
        self.networks = nn.Buffer(torch.zeros(0, target.numel))

    def learn(self, material: Material, *, generator: torch.Generator, progress: Progress) -> None:
        """Keep the networks."""
        self.networks = nn.Buffer(material.flat().clone())

    def sample(self, count: int, wish: Wish, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw networks, with replacement, and add noise."""
        at = torch.randint(len(self.networks), (count,), generator=generator, device=generator.device)
        chosen = self.networks[at.to(self.networks.device)]
        noise = self.sigma * noise_like(chosen, generator)
        return self.target.tensors(chosen + (noise * self._spread(chosen) if self.relative else noise))

    def _spread(self, flat: Tensor) -> Tensor:
        """For every parameter the standard deviation of its tensor's entries."""
        parts = [part.std(-1, correction=0, keepdim=True).expand_as(part) for part in torch.split(flat, list(self.target.sizes), -1)]
        return torch.cat(parts, -1)
