"""Standardising: flat weights shrunk to mean 0 and deviation 1 in each parameter, and grown back."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

STILL = 1e-6
"""Deviations below this share of a parameter's magnitude are rounding: that parameter is constant."""


class Standard(nn.Module):
    """The mean and the standard deviation of each parameter of a zoo, as buffers.

    A parameter that never varies shrinks to 0 and grows back to its constant whatever is drawn for it.

    Example:
        >>> standard = Standard.of(torch.tensor([[0.0, 5.0], [2.0, 5.0]]))
        >>> standard.shrink(torch.tensor([3.0, 5.0])), standard.grow(torch.tensor([2.0, 9.0]))
        (tensor([2., 0.]), tensor([3., 5.]))
    """

    def __init__(self, size: int) -> None:
        """Make one that changes nothing yet.

        Args:
            size: parameters of a network.
        """
        super().__init__()
        self.mean = nn.Buffer(torch.zeros(size))
        self.std = nn.Buffer(torch.ones(size))

    @classmethod
    def of(cls, flat: Float[Tensor, "networks params"]) -> "Standard":
        """Measure networks; one alone has no deviation, so every parameter of it is constant."""
        made = cls(flat.shape[-1])
        wide = flat.detach().double()  # float32 loses small deviations of large weights
        mean = wide.mean(0)
        std = (wide - mean).square().mean(0).sqrt()
        std = torch.where(std > STILL * wide.abs().amax(0), std, 0.0)
        made.mean, made.std = nn.Buffer(mean.to(flat.dtype)), nn.Buffer(std.to(flat.dtype))
        return made

    def shrink(self, flat: Float[Tensor, "*networks params"]) -> Float[Tensor, "*networks params"]:
        """Standardise networks."""
        return torch.where(self.std > 0, (flat - self.mean) / torch.where(self.std > 0, self.std, 1.0), 0.0)

    def grow(self, standardised: Float[Tensor, "*networks params"]) -> Float[Tensor, "*networks params"]:
        """Undo `shrink`."""
        return self.mean + self.std * standardised


__all__ = ["Standard"]
