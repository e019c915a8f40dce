"""How the deltas of several models become one: by summing them, or by electing a sign for each entry first."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

_NOTHING = 1e-8  # a sum of weights smaller than this is not divided by


def total(deltas: Iterable[Tensor], weights: Sequence[float], normalize: bool) -> Tensor:
    """`sum_i w_i d_i`, divided by `sum_i w_i` where `normalize`, unless the weights cancel (to less than 1e-8).

    Args:
        deltas: of each model, on a slab; taken one at a time, and overwritten.
        weights: of the models.
        normalize: whether to divide.
    """
    divisor = sum(weights) if normalize else 1.0
    shares = [weight / (divisor if abs(divisor) >= _NOTHING else 1.0) for weight in weights]
    made: Tensor | None = None
    for delta, share in zip(deltas, shares, strict=True):
        made = _scaled(delta, share) if made is None else made.add_(delta, alpha=share)
    assert made is not None
    return made


def elect(deltas: Iterable[Tensor], weights: Sequence[float], normalize: bool) -> Tensor:
    """Sum, entry by entry, the weighted deltas whose sign is that of all of them together (TIES-Merging, arXiv:2306.01708, section 4.2).

    The elected sign is that of `sum_i w_i d_i`; zero counts as +. Models that have nothing at an entry, or the other sign, are left out
    there.

    Args:
        deltas: of each model, on a slab; taken one at a time, and overwritten.
        weights: of the models.
        normalize: whether to divide each entry by the sum of the weights that had a say there (not where these cancel: then by 1).
    """
    voices = [_scaled(delta, weight) for delta, weight in zip(deltas, weights, strict=True)]
    return agree(voices, direction(voices), weights, normalize)


def direction(voices: Sequence[Tensor]) -> Tensor:
    """The sign of the sum of tensors, entry by entry: 1 or -1; zero counts as +."""
    made = voices[0].clone()
    for voice in voices[1:]:
        made.add_(voice)
    # Adding 0 turns the -0 of a negative zero into +0, so that its sign counts as + as well.
    return torch.copysign(torch.ones((), dtype=made.dtype, device=made.device), made.add_(0.0))


def agree(voices: Sequence[Tensor], signs: Tensor, weights: Sequence[float], normalize: bool) -> Tensor:
    """Sum what has the given signs.

    Args:
        voices: weighted deltas; overwritten.
        signs: 1 or -1 for each entry.
        weights: that are in the voices.
        normalize: whether to divide by the sum of the weights of those that are summed.
    """
    made, divisor = torch.zeros_like(signs), torch.zeros_like(signs)
    for voice, weight in zip(voices, weights, strict=True):
        made.add_(voice.mul_(signs).clamp_(min=0))
        if normalize and weight:
            divisor.add_(voice.sign_(), alpha=weight)
    return (made.div_(_divisible(divisor, weights)) if normalize else made).mul_(signs)


def _divisible(divisor: Tensor, weights: Sequence[float]) -> Tensor:
    """Sums of some of the weights, made into something to divide by where nothing, or as good as nothing, was summed; in place."""
    if min(weights) >= 0:  # where nothing was summed there is nothing to divide either, and any number will do
        return divisor.clamp_(min=min((weight for weight in weights if weight), default=1.0) / 2)
    slack = torch.finfo(divisor.dtype).eps * sum(map(abs, weights))
    return divisor.add_(divisor.abs() <= slack)


def _scaled(delta: Tensor, scale: float) -> Tensor:
    return delta if scale == 1 else delta.mul_(scale)
