"""Autoencoders of flat weights: perceptrons that squeeze a row into a short latent one."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.generation.latent.minimising import noise_like


class NoisyAutoencoder(nn.Module):
    """Squeezes rows while noise is added to them and to their latent rows, so that what lies between known latents is decoded too."""

    def __init__(self, size: int, *, latent: int = 32, width: int = 256, input_noise: float = 0.05, latent_noise: float = 0.1) -> None:
        """Make it.

        Args:
            size: of a row.
            latent: size of a latent row.
            width: of the one hidden layer on each side.
            input_noise: standard deviation, in that of the rows.
            latent_noise: standard deviation.
        """
        super().__init__()
        self.input_noise, self.latent_noise = input_noise, latent_noise
        self.encoder = nn.Sequential(nn.Linear(size, width), nn.ELU(), nn.Linear(width, latent))
        self.decoder = nn.Sequential(nn.Linear(latent, width), nn.ELU(), nn.Linear(width, size))

    def encode(self, rows: Float[Tensor, "rows size"]) -> Float[Tensor, "rows latent"]:
        """Squeeze rows, without noise."""
        latent: Tensor = self.encoder(rows)
        return latent

    def decode(self, latent: Float[Tensor, "rows latent"]) -> Float[Tensor, "rows size"]:
        """Unfold latent rows."""
        rows: Tensor = self.decoder(latent)
        return rows

    def loss(self, rows: Float[Tensor, "rows size"], *, generator: torch.Generator) -> Float[Tensor, ""]:
        """Mean squared error of the clean rows, told from noisy ones."""
        latent = self.encode(rows + self.input_noise * noise_like(rows, generator))
        return (self.decode(latent + self.latent_noise * noise_like(latent, generator)) - rows).square().mean()


class VariationalAutoencoder(nn.Module):
    """Squeezes rows into normal distributions that are held near the standard one (Kingma and Welling, arXiv:1312.6114)."""

    def __init__(self, size: int, *, latent: int = 32, width: int = 256, divergence: float = 1e-3) -> None:
        """Make it.

        Args:
            size: of a row.
            latent: size of a latent row.
            width: of the one hidden layer on each side.
            divergence: what the divergence from the standard normal distribution, in nats a parameter, counts beside the squared error.
        """
        super().__init__()
        self.divergence = divergence
        self.encoder = nn.Sequential(nn.Linear(size, width), nn.ELU(), nn.Linear(width, 2 * latent))
        self.decoder = nn.Sequential(nn.Linear(latent, width), nn.ELU(), nn.Linear(width, size))

    def distribution(self, rows: Float[Tensor, "rows size"]) -> tuple[Float[Tensor, "rows latent"], Float[Tensor, "rows latent"]]:
        """Mean and log variance of each row's latent."""
        mean, log_variance = self.encoder(rows).chunk(2, -1)
        return mean, log_variance.clamp(-20, 10)  # beyond that an exponential would overflow

    def encode(self, rows: Float[Tensor, "rows size"]) -> Float[Tensor, "rows latent"]:
        """Squeeze rows into the means of their distributions."""
        return self.distribution(rows)[0]

    def decode(self, latent: Float[Tensor, "rows latent"]) -> Float[Tensor, "rows size"]:
        """Unfold latent rows."""
        rows: Tensor = self.decoder(latent)
        return rows

    def loss(self, rows: Float[Tensor, "rows size"], *, generator: torch.Generator) -> Float[Tensor, ""]:
        """Mean squared error, and the weighted divergence."""
        mean, log_variance = self.distribution(rows)
        latent = mean + (log_variance / 2).exp() * noise_like(mean, generator)
        divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum(-1).mean() / 2
        return (self.decode(latent) - rows).square().mean() + self.divergence * divergence / rows.shape[-1]


__all__ = ["NoisyAutoencoder", "VariationalAutoencoder"]
