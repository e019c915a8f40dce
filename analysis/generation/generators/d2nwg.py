"""D2NWG: diffusion in the latent space of a variational autoencoder of weights, on condition of a data set."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.generation.drawing import conditions_of
from weightspace.analysis.generation.generator import Progress, WeightGenerator, Wish, weight_generator
from weightspace.analysis.generation.latent.autoencoder import VariationalAutoencoder
from weightspace.analysis.generation.latent.diffusion import Diffusion
from weightspace.analysis.generation.latent.minimising import drawn, minimise
from weightspace.analysis.generation.latent.set_encoder import SetEncoder, alignment_loss
from weightspace.analysis.generation.latent.standardising import Standard
from weightspace.analysis.generation.material import Material
from weightspace.analysis.generation.target import Target
from weightspace.errors import GenerationError


@weight_generator(
    "d2nwg",
    learns=["networks"],
    takes=["condition"],
    reference="Soro et al., Diffusion-based Neural Network Weights Generation, arXiv:2402.18153",
)
class D2NWG(WeightGenerator):
    """Latent diffusion of weights on condition of the data set that a network is for.

    A condition holds features of a few examples of each class, (classes, shots, features), the classes in the order of the network's outputs
    (see `few_shots`); one of fewer dimensions is of one class, or one shot of one class. Fitted without conditions, it draws any of the
    networks. We depart from the original in perceptrons, where it convolves over weights laid out as an image, and in telling the data set
    encoder which class is which output.
    """

    def __init__(
        self,
        target: Target,
        condition_shape: tuple[int, ...] | None = None,
        *,
        latent: int = 32,
        hidden: int = 256,
        divergence: float = 1e-2,
        autoencoder_steps: int = 1500,
        encoder: str = "clip",
        encoder_steps: int = 500,
        dim: int = 64,
        heads: int = 2,
        points: int = 4,
        shots: int = 5,
        timesteps: int = 200,
        schedule: str = "linear",
        first_noise: float = 1e-4,
        last_noise: float = 5e-2,
        blocks: int = 3,
        steps: int = 4000,
        leave_out: float = 0.1,
        learning_rate: float = 1e-3,
        batch_size: int = 64,
        sampling_steps: int | None = None,
        eta: float = 1.0,
        guidance: float = 0.0,
    ) -> None:
        """Make it.

        Args:
            target: of the networks.
            condition_shape: classes, shots and features.
            latent: size of the latent space, and of an encoded data set.
            hidden: width of all hidden layers of the autoencoder and the denoiser.
            divergence: see `VariationalAutoencoder`.
            autoencoder_steps: that the autoencoder learns for.
            encoder: how the data set encoder learns: `joint`ly with the denoiser, or before it, as `clip` does, to find the latents of the
                networks that were trained on a data set.
            encoder_steps: that it learns for before.
            dim: see `SetEncoder`.
            heads: see `SetEncoder`.
            points: see `SetEncoder`.
            shots: examples of each class that are shown at a step of learning, drawn anew from those of the condition; 0 is all.
            timesteps: of the diffusion.
            schedule: see `kept_shares`.
            first_noise: see `kept_shares`.
            last_noise: see `kept_shares`.
            blocks: see `Denoiser`.
            steps: that the denoiser learns for.
            leave_out: share of the networks of a step whose condition is not shown, for guidance.
            learning_rate: of every part at its first step.
            batch_size: networks a step.
            sampling_steps: see `Diffusion.sample`.
            eta: see `Diffusion.sample`.
            guidance: see `Diffusion.sample`.
        """
        super().__init__(target, condition_shape)
        if encoder not in ("joint", "clip"):
            raise GenerationError(f"no way '{encoder}' for the data set encoder to learn; expected 'joint' or 'clip'")
        if guidance and not leave_out:
            raise GenerationError(f"guidance {guidance:g} needs to know networks without their conditions; set leave_out above 0")
        self.autoencoder_steps, self.encoder_steps, self.steps = autoencoder_steps, encoder_steps, steps
        self.learning_rate, self.batch_size, self.leave_out, self.shots = learning_rate, batch_size, leave_out, shots
        self.sampling_steps, self.eta, self.guidance = sampling_steps, eta, guidance
        self.is_joint = encoder == "joint"
        self.standard = Standard(target.numel)
        self.autoencoder = VariationalAutoencoder(target.numel, latent=latent, width=hidden, divergence=divergence)
        self.data_shape = None if condition_shape is None else _data_shape(condition_shape)
        self.features = None if self.data_shape is None else Standard(self.data_shape[-1])
        self.encoder = None if self.data_shape is None else SetEncoder(self.data_shape, dim=dim, heads=heads, points=points, out=latent)
        self.diffusion = Diffusion(
            latent,
            steps=timesteps,
            schedule=schedule,
            first=first_noise,
            last=last_noise,
            width=hidden,
            blocks=blocks,
            condition=0 if self.encoder is None else latent,
        )

    def learn(self, material: Material, *, generator: torch.Generator, progress: Progress) -> None:
        """Fit the autoencoder, then the data set encoder where it learns alone, then the diffusion of the latents."""
        flat = material.flat()
        self.standard = Standard.of(flat)
        rows = self.standard.shrink(flat)
        sets = None if material.conditions is None else self._sets(material.conditions)
        if sets is not None:
            self.features = Standard.of(sets.flatten(0, 2))
        alone = 0 if sets is None or self.is_joint else self.encoder_steps
        total = self.autoencoder_steps + alone + self.steps

        def batch() -> Tensor:
            return drawn(len(rows), self.batch_size, generator).to(rows.device)

        def minimised(loss: Callable[[], Tensor], parameters: Iterable[nn.Parameter], steps: int, before: int) -> None:
            minimise(
                loss, parameters, steps=steps, learning_rate=self.learning_rate, progress=lambda done, _: progress(before + done, total)
            )

        minimised(
            lambda: self.autoencoder.loss(rows[batch()], generator=generator), self.autoencoder.parameters(), self.autoencoder_steps, 0
        )
        with torch.no_grad():
            latents = self.autoencoder.encode(rows)
        self.diffusion.measure(latents)
        told = [] if self.encoder is None else list(self.encoder.parameters())
        if alone:
            minimised(lambda: self._contrast(latents, sets, batch(), generator), told, alone, self.autoencoder_steps)
        for parameter in told:
            parameter.requires_grad_(self.is_joint)
        learned = [*self.diffusion.parameters(), *(told if self.is_joint else [])]
        minimised(lambda: self._denoise(latents, sets, batch(), generator), learned, self.steps, self.autoencoder_steps + alone)

    def sample(self, count: int, wish: Wish, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw latents on condition of the data set, and unfold them."""
        conditions = conditions_of(self, count, wish)
        encoded = None if conditions is None else self._encoded(self._sets(conditions))
        latents = self.diffusion.sample(
            count, encoded, steps=self.sampling_steps, eta=self.eta, guidance=self.guidance, generator=generator
        )
        return self.target.tensors(self.standard.grow(self.autoencoder.decode(latents)))

    def _contrast(self, latents: Tensor, sets: Tensor | None, at: Tensor, generator: torch.Generator) -> Tensor:
        """How badly data sets find the latents of their networks."""
        assert sets is not None
        standardised = (latents[at] - self.diffusion.centre) / self.diffusion.spread
        return alignment_loss(self._encoded(self._few(sets[at], generator)), standardised)

    def _denoise(self, latents: Tensor, sets: Tensor | None, at: Tensor, generator: torch.Generator) -> Tensor:
        """How badly noise is told."""
        encoded = None if sets is None else self._encoded(self._few(sets[at], generator))
        return self.diffusion.loss(latents[at], encoded, leave_out=self.leave_out, generator=generator)

    def _encoded(self, sets: Float[Tensor, "sets classes shots features"]) -> Float[Tensor, "sets latent"]:
        assert self.encoder is not None and self.features is not None
        encoded: Tensor = self.encoder(self.features.shrink(sets))
        return encoded

    def _few(self, sets: Float[Tensor, "sets classes shots features"], generator: torch.Generator) -> Tensor:
        """Some of the examples of each class, drawn anew."""
        if not 0 < self.shots < sets.shape[2]:
            return sets
        order = torch.rand(sets.shape[:3], generator=generator, device=generator.device).argsort(-1)[..., : self.shots]
        return sets.gather(2, order.to(sets.device)[..., None].expand(-1, -1, -1, sets.shape[-1]))

    def _sets(self, conditions: Tensor) -> Float[Tensor, "sets classes shots features"]:
        """Conditions with all their dimensions."""
        assert self.data_shape is not None
        return conditions.to(self.standard.mean).reshape(-1, *self.data_shape)


def _data_shape(condition_shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Classes, shots and features of a condition."""
    if len(condition_shape) > 3 or 0 in condition_shape:
        raise GenerationError(f"conditions of shape {list(condition_shape)}, expected [classes, shots, features]; see `few_shots`")
    classes, shots, features = (1,) * (3 - len(condition_shape)) + condition_shape
    return classes, shots, features
