"""The two operations of an equivariant layer that touch whole slots, each in one pass over memory.

On a CPU a layer is bound by memory: every tensor of the size of a slot that is made costs as much as the matrix product. So sums are
made where the product is still in the cache, some networks at a time. Elsewhere plain operations do the same.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CACHED = 2**17
"""Numbers that may be worked on at a time."""


def product(values: Tensor, rows: Tensor, parts: Sequence[Tensor], *, rectify: bool = False) -> Tensor:
    """Multiply the channels by a matrix, and add parts that are of length one along some dimensions.

    Args:
        values: (networks, *sizes, channels read).
        rows: (channels written, channels read).
        parts: each (networks, *sizes or ones, channels written).
        rectify: whether a ReLU follows.
    """
    if not _is_fused(values, rows, *parts):
        made = F.linear(values, rows)
        for part in parts:
            made = made + part
        return made.relu() if rectify else made
    made_fused: Tensor = _Product.apply(rectify, values, rows, *parts)  # type: ignore[no-untyped-call]
    return made_fused


def averages(values: Tensor, axes: Sequence[int]) -> tuple[Tensor, ...]:
    """The values as they are, then their mean along each of some axes; the gradients of all meet in one pass."""
    if not _is_fused(values):
        return values, *(values.mean(axis) for axis in axes)
    made: tuple[Tensor, ...] = _Averages.apply(values, tuple(axes))  # type: ignore[no-untyped-call]
    return made


def _is_fused(*tensors: Tensor) -> bool:
    return tensors[0].device.type == "cpu" and not torch.is_autocast_enabled("cpu") and len({tensor.dtype for tensor in tensors}) == 1


def _chunks(values: Tensor) -> Iterator[slice]:
    step = max(1, CACHED * len(values) // max(1, values.numel()))
    return (slice(at, at + step) for at in range(0, len(values), step))


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rectify: bool, values: Tensor, rows: Tensor, *parts: Tensor) -> Tensor:
        values = values.contiguous()
        made = values.new_empty((*values.shape[:-1], len(rows)))
        for at in _chunks(made):
            torch.mm(values[at].flatten(0, -2), rows.T, out=made[at].flatten(0, -2))
            for part in parts:
                made[at].add_(part[at])
            if rectify:
                made[at].relu_()
        ctx.save_for_backward(values, rows, *([made] if rectify else []))
        ctx.shapes = [part.shape for part in parts]
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, rows, *rectified = ctx.saved_tensors
        back = torch.empty_like(values) if ctx.needs_input_grad[1] else None
        turned = torch.zeros_like(rows)
        sums = [rows.new_empty(shape) for shape in ctx.shapes]
        for at in _chunks(gradients[0]):
            gradient = gradients[0][at].contiguous()
            if rectified:
                gradient = torch.ops.aten.threshold_backward(gradient, rectified[0][at], 0)
            flat = gradient.flatten(0, -2)
            if back is not None:
                torch.mm(flat, rows, out=back[at].flatten(0, -2))
            turned.addmm_(flat.T, values[at].flatten(0, -2))
            for made in sums:
                made[at] = gradient.sum_to_size(made[at].shape)
        return None, back, turned, *sums


class _Averages(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, axes: tuple[int, ...]) -> tuple[Tensor, ...]:
        ctx.axes, ctx.sizes = axes, values.shape
        made = [values.new_empty((*values.shape[:axis], *values.shape[axis + 1 :])) for axis in axes]
        for at in _chunks(values):
            for mean, axis in zip(made, axes, strict=True):
                torch.mean(values[at], axis, out=mean[at])
        return values.view_as(values), *made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # The first output is read by this module's operations alone, whose gradients no one else holds: they may be added to in place.
        whole, *means = gradients
        made = whole.contiguous()
        for at in _chunks(made):
            for mean, axis in zip(means, ctx.axes, strict=True):
                made[at].add_(mean[at].unsqueeze(axis), alpha=1 / ctx.sizes[axis])
        return made, None


__all__ = ["averages", "product"]
