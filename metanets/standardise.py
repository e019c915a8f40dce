"""Standardising features over the networks that a metanet is trained on, or over each batch of them."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

CONSTANT = 1e-6
"""A feature whose deviation is below this share of its size is taken for a constant, and only centred."""

TINY = 1e-12
"""Added to the variances of a batch, which may be far below those of weights."""


class Standardise(nn.Module):
    """Subtracts the mean of each feature and divides by its deviation, both of the networks it was fitted on.

    Example:
        >>> layer = Standardise(2)
        >>> layer.fit(torch.tensor([[1., 5.], [3., 5.]]))
        >>> layer(torch.tensor([[5., 6.]]))
        tensor([[3., 1.]])
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean, self.std = nn.Buffer(torch.zeros(features)), nn.Buffer(torch.ones(features))

    def fit(self, values: Float[Tensor, "networks features"]) -> None:
        """Take mean and deviation; constant features keep a deviation of one."""
        exact = values.double()  # in 32 bits the mean of large constants is none of them
        mean, std = exact.mean(0), exact.std(0, correction=0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std > CONSTANT * mean.abs().clamp_min(CONSTANT), std, torch.ones_like(std)))

    def forward(self, values: Float[Tensor, "networks features"]) -> Float[Tensor, "networks features"]:
        """Bring features to mean zero and deviation one."""
        return (values - self.mean) / self.std


class BatchStandardise(Standardise):
    """The same over each batch in training, so that it follows what it is given; after it by what it was fitted on last.

    Ioffe and Szegedy, arXiv:1502.03167, without gain and shift, and with fits in the place of running means, which lag behind. A batch of
    one network counts as after training.
    """

    def forward(self, values: Float[Tensor, "networks features"]) -> Float[Tensor, "networks features"]:
        """Bring features to mean zero and deviation one."""
        if not self.training or len(values) < 2:
            return super().forward(values)
        return nn.functional.batch_norm(values, None, None, training=True, eps=TINY)


__all__ = ["CONSTANT", "BatchStandardise", "Standardise"]
