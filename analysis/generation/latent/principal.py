"""Principal components of standardised weights: few coordinates for large networks, all of one scale."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Principal(nn.Module):
    """The directions in which the networks of a zoo differ most, as buffers.

    Coordinates are divided by one number, so that their mean square is 1 while the directions keep their proportions.

    Example:
        >>> principal = Principal.of(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]), 1)
        >>> principal.grow(principal.shrink(torch.tensor([2.0, 5.0])))
        tensor([2., 0.])
    """

    def __init__(self, size: int, components: int) -> None:
        """Make one that keeps the first coordinates as they are.

        Args:
            size: parameters of a network.
            components: coordinates that are kept.
        """
        super().__init__()
        self.basis = nn.Buffer(torch.eye(components, size))
        self.scale = nn.Buffer(torch.ones(()))

    @classmethod
    def of(cls, flat: Float[Tensor, "networks params"], components: int) -> "Principal":
        """Find the directions of networks whose mean is 0; no more than there are networks or parameters."""
        most = min(components, *flat.shape)
        made = cls(flat.shape[-1], most)
        made.basis = nn.Buffer(torch.linalg.svd(flat.detach(), full_matrices=False).Vh[:most].contiguous())
        rms = (flat.detach() @ made.basis.T).square().mean().sqrt()
        made.scale = nn.Buffer(torch.where(rms > 0, rms, 1.0))
        return made

    def shrink(self, flat: Float[Tensor, "*networks params"]) -> Float[Tensor, "*networks components"]:
        """Coordinates of networks."""
        return flat @ self.basis.T / self.scale

    def grow(self, coordinates: Float[Tensor, "*networks components"]) -> Float[Tensor, "*networks params"]:
        """Networks by their coordinates."""
        return coordinates * self.scale @ self.basis


__all__ = ["Principal"]
