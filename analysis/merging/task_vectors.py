"""What models differ from their base by, and adding it back."""

from collections.abc import Iterator

import torch
from torch import Tensor

from weightspace.analysis.merging.method import Slab


def delta_of(slab: Slab, index: int) -> Tensor:
    """What one input differs from the base by: a new tensor, that may be overwritten."""
    assert slab.base is not None  # the method says that it is required
    return slab.tensors[index] - slab.base


def deltas(slab: Slab) -> Iterator[Tensor]:
    """What each input differs from the base by, one after another: new tensors, that may be overwritten."""
    for index in range(len(slab.tensors)):
        yield delta_of(slab, index)


def onto_base(slab: Slab, delta: Tensor, scale: float = 1.0) -> Tensor:
    """`base + scale * delta`; the delta is overwritten."""
    assert slab.base is not None
    return (delta if scale == 1 else delta.mul_(scale)).add_(slab.base)


def as_factor(mask: Tensor) -> Tensor:
    """Ones and zeros to multiply with, for True and False: bytes, three times as fast as truth values; shares their memory."""
    return mask.view(torch.uint8)
