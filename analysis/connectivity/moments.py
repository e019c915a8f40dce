"""Mean and standard deviation of channels, gathered batch by batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Mean and population standard deviation of each channel."""

    mean: Float[Tensor, " channels"]
    std: Float[Tensor, " channels"]

    @classmethod
    def mixed(cls, parts: Sequence["Moments"], shares: Sequence[float]) -> "Moments":
        """The sum of means and that of deviations, each times its share."""
        mean, std = parts[0].mean * shares[0], parts[0].std * shares[0]
        for part, share in zip(parts[1:], shares[1:], strict=True):
            mean, std = mean + part.mean * share, std + part.std * share
        return cls(mean, std)

    def towards(self, goal: "Moments") -> tuple[Float[Tensor, " channels"], Float[Tensor, " channels"]]:
        """The scale and shift that give a channel of these moments the goal's; one that hardly varies is only shifted."""
        varies = self.std > 1e-5 * goal.std
        scale = torch.where(varies, goal.std / torch.where(varies, self.std, 1), 1)
        return scale, goal.mean - scale * self.mean


class Gathering:
    """Moments of values that come in parts, summed in float64 as Chan, Golub and LeVeque (1983) merge them."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.count = 0
        self._mean = self._square = torch.zeros(())

    def add(self, values: Float[Tensor, "samples channels"]) -> Moments:
        """Take in some more samples; returns the moments of these alone."""
        wide = values.double()
        count, mean = len(wide), wide.mean(0)
        square = (wide - mean).square().sum(0)
        before, self.count = self.count, self.count + count
        if before == 0:
            self._mean, self._square = mean, square
        else:
            apart = mean - self._mean
            self._mean = self._mean + apart * (count / self.count)
            self._square = self._square + square + apart.square() * (before * count / self.count)
        return Moments(mean, (square / count).sqrt())

    @property
    def moments(self) -> Moments:
        """Moments of everything so far."""
        return Moments(self._mean, (self._square / self.count).sqrt())

    @property
    def variance(self) -> Float[Tensor, " channels"]:
        """The unbiased variance of everything so far, which is what batch norms keep."""
        return self._square / max(self.count - 1, 1)

    def normalised(self, weight: Float[Tensor, " channels"], bias: Float[Tensor, " channels"], epsilon: float) -> Moments:
        """Moments of what a batch norm gives for all this, with its mean and variance as the running statistics."""
        return Moments(bias.to(self._mean), weight.to(self._mean).abs() * self.moments.std / (self.variance + epsilon).sqrt())
