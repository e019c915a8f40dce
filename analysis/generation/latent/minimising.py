"""Minimising the loss of drawn batches: AdamW with a rate that falls along a cosine to zero."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from weightspace.analysis.generation.generator import Progress
from weightspace.errors import GenerationError


def minimise(
    loss: Callable[[], Tensor],
    parameters: Iterable[nn.Parameter],
    *,
    steps: int,
    learning_rate: float,
    clip: float | None = None,
    progress: Progress = lambda done, total: None,
) -> list[float]:
    """Minimise a loss that draws its own batch.

    Args:
        loss: of a new batch at every call.
        parameters: that are changed.
        steps: of AdamW (betas .9 and .999, weight decay .01).
        learning_rate: at the first step.
        clip: the longest gradient that is followed; longer ones are shortened. None is any.
        progress: is told of every step.

    Returns:
        The loss of each step.

    Raises:
        GenerationError: the loss became infinite or no number.
    """
    changed = list(parameters)
    optimizer = torch.optim.AdamW(changed, lr=learning_rate)
    lost: list[float] = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
        value = loss()
        if not value.isfinite():
            raise GenerationError(f"the loss became {float(value.detach())} at step {step + 1}; lower the learning rate")
        optimizer.zero_grad()
        torch.autograd.backward(value)
        if clip is not None:
            nn.utils.clip_grad_norm_(changed, clip)
        optimizer.step()
        lost.append(float(value.detach()))
        progress(step + 1, steps)
    return lost


def drawn(rows: int, size: int, generator: torch.Generator) -> Tensor:
    """Numbers of the rows of a batch, with replacement only where there are fewer rows than the batch takes."""
    if rows < size:
        return torch.randint(rows, (size,), generator=generator)
    return torch.randperm(rows, generator=generator)[:size]


def noise_like(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal noise on the device of a tensor, drawn on that of the generator."""
    return torch.randn(tensor.shape, generator=generator, device=generator.device, dtype=tensor.dtype).to(tensor.device)


__all__ = ["drawn", "minimise", "noise_like"]
