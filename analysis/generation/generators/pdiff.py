"""P-diff: diffusion in the latent space of an autoencoder of flat weights."""

import torch
from torch import Tensor

from weightspace.analysis.generation.generator import Progress, WeightGenerator, Wish, weight_generator
from weightspace.analysis.generation.latent.autoencoder import NoisyAutoencoder
from weightspace.analysis.generation.latent.diffusion import Diffusion
from weightspace.analysis.generation.latent.minimising import drawn, minimise
from weightspace.analysis.generation.latent.standardising import Standard
from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.target import Target


@weight_generator("pdiff", learns=["networks"], reference="Wang et al., Neural Network Diffusion, arXiv:2402.13144")
class PDiff(WeightGenerator):
    """Diffusion in the latent space of an autoencoder of all weights.

    Weights are standardised, each parameter by itself; the autoencoder's latents have no distribution of their own but for the noise that is
    added to them; then a diffusion model learns them. We depart from the original in perceptrons, where it convolves along the flat weights,
    since their order means nothing; in standardising by parameter, not by tensor; and in fewer steps of noise.
    """

    def __init__(
        self,
        target: Target,
        condition_shape: tuple[int, ...] | None = None,
        *,
        latent: int = 32,
        hidden: int = 256,
        input_noise: float = 0.05,
        latent_noise: float = 0.1,
        autoencoder_steps: int = 1500,
        timesteps: int = 200,
        schedule: str = "linear",
        first_noise: float = 1e-4,
        last_noise: float = 5e-2,
        blocks: int = 3,
        steps: int = 4000,
        learning_rate: float = 1e-3,
        batch_size: int = 64,
        sampling_steps: int | None = None,
        eta: float = 1.0,
    ) -> None:
        """Make it.

        Args:
            target: of the networks.
            condition_shape: none.
            latent: size of the latent space.
            hidden: width of all hidden layers.
            input_noise: see `NoisyAutoencoder`.
            latent_noise: see `NoisyAutoencoder`.
            autoencoder_steps: that the autoencoder learns for.
            timesteps: of the diffusion.
            schedule: see `kept_shares`.
            first_noise: see `kept_shares`.
            last_noise: see `kept_shares`.
            blocks: see `Denoiser`.
            steps: that the denoiser learns for.
            learning_rate: of both at their first steps.
            batch_size: networks a step.
            sampling_steps: see `Diffusion.sample`.
            eta: see `Diffusion.sample`.
        """
        super().__init__(target, condition_shape)
        self.autoencoder_steps, self.steps = autoencoder_steps, steps
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self.sampling_steps, self.eta = sampling_steps, eta
        self.standard = Standard(target.numel)
        self.autoencoder = NoisyAutoencoder(target.numel, latent=latent, width=hidden, input_noise=input_noise, latent_noise=latent_noise)
        self.diffusion = Diffusion(
            latent, steps=timesteps, schedule=schedule, first=first_noise, last=last_noise, width=hidden, blocks=blocks
        )

    def learn(self, material: Material, *, generator: torch.Generator, progress: Progress) -> None:
        """Fit the autoencoder, then the diffusion of its latents."""
        flat = material.flat()
        self.standard = Standard.of(flat)
        rows = self.standard.shrink(flat)
        total = self.autoencoder_steps + self.steps
        minimise(
            lambda: self.autoencoder.loss(rows[drawn(len(rows), self.batch_size, generator).to(rows.device)], generator=generator),
            self.autoencoder.parameters(),
            steps=self.autoencoder_steps,
            learning_rate=self.learning_rate,
            progress=lambda done, _: progress(done, total),
        )
        with torch.no_grad():
            latents = self.autoencoder.encode(rows)
        self.diffusion.learn(
            latents,
            steps=self.steps,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            generator=generator,
            progress=lambda done, _: progress(self.autoencoder_steps + done, total),
        )

    def sample(self, count: int, wish: Wish, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw latents and unfold them."""
        latents = self.diffusion.sample(count, steps=self.sampling_steps, eta=self.eta, generator=generator)
        return self.target.tensors(self.standard.grow(self.autoencoder.decode(latents)))
