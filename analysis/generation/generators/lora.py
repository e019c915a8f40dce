"""Low-rank adapters under a condition: diffusion in a space in which a product's factors are told in one way only."""

import math

import torch
from torch import Tensor

from weightspace.analysis.generation.adapters.spaces import adapter_space
from weightspace.analysis.generation.drawing import conditions_of
from weightspace.analysis.generation.generator import Progress, WeightGenerator, Wish, weight_generator
from weightspace.analysis.generation.latent.diffusion import Diffusion
from weightspace.analysis.generation.latent.minimising import drawn, minimise
from weightspace.analysis.generation.latent.standardising import Standard
from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.target import Target


@weight_generator("lora", learns=["networks"], takes=["condition"], reference="after arXiv:2402.18153 and arXiv:2410.04207")
class Lora(WeightGenerator):
    """Conditional diffusion of the adapters of one base.

    Any invertible matrix between the factors of an update gives other weights and the same network, so adapters are first brought into one
    frame, or told by their products (Putterman et al., arXiv:2410.04207, on why). A diffusion model (as in Soro et al., arXiv:2402.18153)
    learns the principal components under the conditions; what it draws are adapters of the same rank and names. Tensors that are no
    factors are learned as they are.
    """

    def __init__(
        self,
        target: Target,
        condition_shape: tuple[int, ...] | None = None,
        *,
        space: str = "products",
        latent: int = 32,
        width: int = 128,
        blocks: int = 2,
        noise_steps: int = 100,
        sampling_steps: int | None = None,
        eta: float = 1.0,
        leave_out: float = 0.1,
        guidance: float = 0.0,
        steps: int = 3000,
        learning_rate: float = 1e-3,
        batch_size: int = 64,
    ) -> None:
        """Make it.

        Args:
            target: of the adapters.
            condition_shape: of conditions, which are laid into a row and standardised; None is without.
            space: see `adapter_space`.
            latent: principal components that are learned.
            width: see `Denoiser`.
            blocks: see `Denoiser`.
            noise_steps: of the diffusion.
            sampling_steps: see `Diffusion.sample`.
            eta: see `Diffusion.sample`.
            leave_out: see `Diffusion.loss`.
            guidance: see `Diffusion.sample`.
            steps: of learning.
            learning_rate: at the first step.
            batch_size: adapters a step.

        Raises:
            UnknownNameError: there is no such space.
            GenerationError: the networks are no adapters.
        """
        super().__init__(target, condition_shape)
        self.sampling_steps, self.eta, self.leave_out, self.guidance = sampling_steps, eta, leave_out, guidance
        self.steps, self.learning_rate, self.batch_size = steps, learning_rate, batch_size
        self.space = adapter_space(space, target, latent)
        known = math.prod(condition_shape) if condition_shape is not None else 0
        self.asked = Standard(known)
        self.diffusion = Diffusion(latent, steps=noise_steps, width=width, blocks=blocks, condition=known)

    def learn(self, material: Material, *, generator: torch.Generator, progress: Progress) -> None:
        """Span the space, and learn the diffusion in it.

        Raises:
            GenerationError: the loss is not finite.
        """
        assert material.networks is not None
        rows = self.space.learn(material.networks.tensors)
        given = None
        if material.conditions is not None:
            self.asked = Standard.of(material.conditions.reshape(len(rows), -1).to(rows))
            given = self.asked.shrink(material.conditions.reshape(len(rows), -1).to(rows))
        self.diffusion.measure(rows)

        def loss() -> Tensor:
            at = drawn(len(rows), self.batch_size, generator).to(rows.device)
            seen = None if given is None else given[at]
            return self.diffusion.loss(rows[at], seen, leave_out=self.leave_out, generator=generator)

        minimise(loss, self.diffusion.parameters(), steps=self.steps, learning_rate=self.learning_rate, progress=progress)

    def sample(self, count: int, wish: Wish, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw coordinates and make adapters of them."""
        given = conditions_of(self, count, wish)
        asked = None if given is None else self.asked.shrink(given.reshape(count, -1).to(self.asked.mean))
        made = self.diffusion.sample(count, asked, steps=self.sampling_steps, eta=self.eta, guidance=self.guidance, generator=generator)
        return self.space.grow(made)
