"""Denoising diffusion of vectors: noise is added step by step, and a network learns to take it away."""

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weightspace.analysis.generation.generator import Progress
from weightspace.analysis.generation.latent.minimising import drawn, minimise, noise_like
from weightspace.analysis.generation.latent.residual import Residual, two_layers
from weightspace.errors import GenerationError, UnknownNameError

PERIOD = 10_000.0
"""Longest wave of the time embedding (Vaswani et al., arXiv:1706.03762)."""


def _linear(steps: int, first: float, last: float) -> Tensor:
    return torch.linspace(first, last, steps, dtype=torch.float64)


def _scaled_linear(steps: int, first: float, last: float) -> Tensor:
    return torch.linspace(first**0.5, last**0.5, steps, dtype=torch.float64) ** 2


def _cosine(steps: int, first: float, last: float) -> Tensor:
    """Nichol and Dhariwal (arXiv:2102.09672), equation 17, with their s = .008 and betas of .999 at most; the ends are its own."""
    times = torch.arange(steps + 1, dtype=torch.float64) / steps
    kept = torch.cos((times + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - kept[1:] / kept[:-1]).clamp(max=0.999)


SCHEDULES: Mapping[str, Callable[[int, float, float], Tensor]] = {"linear": _linear, "scaled_linear": _scaled_linear, "cosine": _cosine}
"""Noise added at each step, (steps,), by name: linear in beta (Ho et al., arXiv:2006.11239), in its root (latent diffusion), or cosine."""


def kept_shares(schedule: str, steps: int, first: float, last: float) -> tuple[float, ...]:
    """The share of the variance that is still signal after each step, the products of 1 - beta.

    Args:
        schedule: one of `SCHEDULES`.
        steps: of noise.
        first: beta of the first step.
        last: beta of the last step.

    Raises:
        UnknownNameError: no such schedule.
        GenerationError: no step, or betas that are none.
    """
    if schedule not in SCHEDULES:
        raise UnknownNameError.of("noise schedule", schedule, SCHEDULES)
    if steps < 1:
        raise GenerationError(f"{steps} steps of noise; give at least one")
    if not 0 < first <= last < 1:
        raise GenerationError(f"noise from {first:g} to {last:g} a step; give rising shares between 0 and 1")
    with torch.device("cpu"):  # numbers, wherever the module is made
        return tuple((1 - SCHEDULES[schedule](steps, first, last)).cumprod(0).tolist())


class Denoiser(Residual):
    """Tells the noise in vectors, from them and what `Noisiness` takes."""

    def __init__(self, size: int, *, width: int = 256, blocks: int = 3, condition: int = 0) -> None:
        """Make it.

        Args:
            size: of the vectors.
            width: of all hidden layers.
            blocks: residual ones.
            condition: size of the vectors that it is conditioned on; 0 is none.
        """
        super().__init__(size, width=width, blocks=blocks, tell=partial(Noisiness, condition=condition), is_normed=True)


class Noisiness(nn.Module):
    """What is known of a noisy vector, as one vector: how many steps of noise it has got, and the condition."""

    def __init__(self, width: int, *, condition: int) -> None:
        """Make it; see `Denoiser`."""
        super().__init__()
        self.time = two_layers(width, width)
        self.condition = two_layers(condition, width) if condition else None
        self.nothing = nn.Parameter(torch.zeros(width)) if condition else None

    def forward(
        self, times: Int[Tensor, " vectors"], condition: Float[Tensor, "vectors condition"] | None = None, left_out: Tensor | None = None
    ) -> Float[Tensor, "vectors width"]:
        """Encode it.

        Args:
            times: steps of noise that each has got, less one.
            condition: of each; None is without one.
            left_out: vectors, by a mask, whose condition is not looked at.
        """
        first: nn.Linear = self.time[0]  # type: ignore[assignment]
        known: Tensor = self.time(_waves(times, first.in_features, first.weight.dtype))
        if self.condition is None or self.nothing is None:
            return known
        seen = self.nothing.expand_as(known) if condition is None else self.condition(condition)
        return known + (seen if left_out is None else torch.where(left_out[:, None], self.nothing, seen))


class Diffusion(nn.Module):
    """A denoising diffusion model of vectors (Ho et al., Denoising Diffusion Probabilistic Models, arXiv:2006.11239).

    Vectors are centred and divided by one standard deviation first, as latent diffusion does (Rombach et al., arXiv:2112.10752). The loss is
    the plain squared error of the noise (equation 14); sampling is that of DDIM (Song et al., arXiv:2010.02502, equations 12 and 16): all
    steps with `eta` 1 are the ancestral sampler, `eta` 0 is deterministic but for its start.
    """

    def __init__(
        self,
        size: int,
        *,
        steps: int = 200,
        schedule: str = "linear",
        first: float = 1e-4,
        last: float = 5e-2,
        width: int = 256,
        blocks: int = 3,
        condition: int = 0,
    ) -> None:
        """Make one that knows nothing yet.

        Args:
            size: of the vectors.
            steps: of noise.
            schedule: see `kept_shares`.
            first: see `kept_shares`.
            last: see `kept_shares`.
            width: see `Denoiser`.
            blocks: see `Denoiser`.
            condition: see `Denoiser`.
        """
        super().__init__()
        self.kept = kept_shares(schedule, steps, first, last)
        self.denoiser = Denoiser(size, width=width, blocks=blocks, condition=condition)
        self.centre = nn.Buffer(torch.zeros(size))
        self.spread = nn.Buffer(torch.ones(()))

    def measure(self, clean: Float[Tensor, "vectors size"]) -> None:
        """Take centre and spread from the vectors that are to be learned."""
        self.centre.copy_(clean.mean(0))
        spread = (clean - self.centre).square().mean().sqrt()
        self.spread.copy_(torch.where(spread > 0, spread, 1.0))

    def loss(
        self,
        clean: Float[Tensor, "vectors size"],
        condition: Float[Tensor, "vectors condition"] | None = None,
        *,
        leave_out: float = 0.0,
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """Mean squared error of the noise told, at times drawn evenly.

        Args:
            clean: vectors.
            condition: of each.
            leave_out: share of the vectors whose condition is not shown (classifier-free guidance, Ho and Salimans, arXiv:2207.12598).
            generator: draws times and noise.
        """
        clean = (clean - self.centre) / self.spread
        times = torch.randint(len(self.kept), (len(clean),), generator=generator, device=generator.device).to(clean.device)
        noise = noise_like(clean, generator)
        kept = torch.tensor(self.kept, dtype=clean.dtype, device=clean.device)[times, None]
        left_out = None
        if condition is not None and leave_out > 0:
            left_out = torch.rand(len(clean), generator=generator, device=generator.device).to(clean.device) < leave_out
        told = self.denoiser(kept.sqrt() * clean + (1 - kept).sqrt() * noise, times, condition, left_out)
        lost: Tensor = (told - noise).square().mean()
        return lost

    def learn(
        self,
        clean: Float[Tensor, "vectors size"],
        *,
        steps: int = 4000,
        learning_rate: float = 1e-3,
        batch_size: int = 64,
        generator: torch.Generator,
        progress: Progress = lambda done, total: None,
    ) -> list[float]:
        """Learn vectors without conditions; see `minimise`."""
        self.measure(clean)

        def loss() -> Tensor:
            return self.loss(clean[drawn(len(clean), batch_size, generator).to(clean.device)], generator=generator)

        return minimise(loss, self.parameters(), steps=steps, learning_rate=learning_rate, progress=progress)

    @torch.no_grad()
    def sample(
        self,
        count: int,
        condition: Float[Tensor, "count condition"] | None = None,
        *,
        steps: int | None = None,
        eta: float = 1.0,
        guidance: float = 0.0,
        generator: torch.Generator,
    ) -> Float[Tensor, "count size"]:
        """Draw vectors.

        Args:
            count: vectors.
            condition: of each.
            steps: evenly among those of noise; None is all of them, and so is more than there are.
            eta: noise that is added on the way, from 0 (DDIM) to 1 (ancestral).
            guidance: how much further than the condition alone, away from what is told without it; 0 is not at all.
            generator: draws the noise.

        Raises:
            GenerationError: no step.
        """
        if steps is not None and steps < 1:
            raise GenerationError(f"{steps} steps of sampling; give at least one")
        total = len(self.kept)
        times = torch.linspace(total - 1, 0, min(steps or total, total)).round().int().tolist()
        noisy = noise_like(self.centre.expand(count, -1), generator)
        for time, after in zip(times, [*times[1:], None], strict=True):
            told = self._told(noisy, time, condition, guidance)
            kept, kept_after = self.kept[time], 1.0 if after is None else self.kept[after]
            fresh = eta**2 * (1 - kept_after) / (1 - kept) * (1 - kept / kept_after)  # the variance of the noise that is added
            clean = (noisy - (1 - kept) ** 0.5 * told) / kept**0.5
            noisy = kept_after**0.5 * clean + max(1 - kept_after - fresh, 0.0) ** 0.5 * told
            if fresh > 0:
                noisy = noisy + fresh**0.5 * noise_like(noisy, generator)
        return self.centre + self.spread * noisy

    def _told(self, noisy: Tensor, time: int, condition: Tensor | None, guidance: float) -> Tensor:
        times = torch.full((len(noisy),), time, device=noisy.device)
        told: Tensor = self.denoiser(noisy, times, condition)
        if condition is not None and guidance:
            told = told + guidance * (told - self.denoiser(noisy, times))
        return told


def _waves(times: Int[Tensor, " vectors"], width: int, dtype: torch.dtype) -> Float[Tensor, "vectors width"]:
    """Sines and cosines of the times, of wave lengths from 2 pi to `PERIOD` times that."""
    half = (width + 1) // 2
    rates = torch.exp(torch.arange(half, device=times.device) * (-math.log(PERIOD) / max(half - 1, 1)))
    angles = times[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)[:, :width].to(dtype)


__all__ = ["SCHEDULES", "Denoiser", "Diffusion", "kept_shares"]
