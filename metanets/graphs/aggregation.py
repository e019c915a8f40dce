"""Principal neighbourhood aggregation: what a node takes from the messages that reach it, with a derivative made in few passes."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from weightspace.metanets.graphs.paths import Edges, Graphs

AGGREGATES = 4 * 2
"""Mean, smallest, largest and deviation, each as it is and times the logarithm of one more than the degree."""

FLOOR = 1e-5
"""Added to variances, so that the deviation has a slope where all messages are equal."""


def degrees(graphs: Graphs, *, back: bool = False) -> Float[Tensor, "*nodes 1"]:
    """How many edges enter each node; with `back`, how many leave it."""
    ones = [values.new_ones(()).expand(*values.shape[:-1], 1) for values in graphs.values]
    return graphs.to_sources(ones, "sum") if back else graphs.to_targets(ones, "sum")


def aggregate(graphs: Graphs, messages: Edges, degree: Float[Tensor, "*nodes 1"], *, back: bool = False) -> Tensor:
    """Gather messages at the targets of edges (Corso et al., arXiv:2004.05718).

    We keep the aggregators and of the scalers identity and amplification, without the mean logarithm of the degrees of the networks
    trained on, which only is a factor that the next layer learns.

    Args:
        graphs: whose edges they run along.
        messages: (..., channels) of each edge.
        degree: see `degrees`, with the same `back`.
        back: gather at the sources instead.

    Returns:
        (*nodes, 8 * channels); 0 at nodes that no message reaches, but for the deviation.
    """
    total, squares, smallest, largest = _Moments.apply(graphs, back, *messages)  # type: ignore[no-untyped-call]
    count = degree.clamp_min(1)
    mean = total / count
    deviation = ((squares / count - mean.square()).clamp_min(0) + FLOOR).sqrt()
    found = torch.cat([mean, smallest, largest, deviation], -1)
    return torch.cat([found, found * degree.log1p()], -1)


class _Moments(torch.autograd.Function):
    """Sum, sum of squares, smallest and largest of messages.

    The derivatives of torch's own extremes make masks of truth values, which cost several times what all the rest does. Here a mask is
    made as numbers, and all four derivatives are added up in place. Messages that tie share the derivative, as in torch.
    """

    @staticmethod
    def forward(ctx: Any, graphs: Graphs, back: bool, *messages: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        gather = graphs.to_sources if back else graphs.to_targets
        total, squares = gather(list(messages), "sum"), gather([message.square() for message in messages], "sum")
        smallest, largest = gather(list(messages), "min"), gather(list(messages), "max")
        ctx.graphs, ctx.back = graphs, back
        ctx.save_for_backward(smallest, largest, *messages)
        return total, squares, smallest, largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_total: Tensor, of_squares: Tensor, *of_extremes: Tensor) -> tuple[Tensor | None, ...]:
        graphs, (smallest, largest, *messages) = ctx.graphs, ctx.saved_tensors
        spread, gather = (graphs.from_sources, graphs.to_sources) if ctx.back else (graphs.from_targets, graphs.to_targets)
        plain, doubled = spread(of_total), spread(2 * of_squares)
        made = [torch.addcmul(one, message, two) for message, one, two in zip(messages, plain, doubled, strict=True)]
        for extreme, gradient in zip((smallest, largest), of_extremes, strict=True):
            ties = [
                torch.eq(message, value, out=torch.empty_like(message)) for message, value in zip(messages, spread(extreme), strict=True)
            ]
            shares = spread(gradient / gather(ties, "sum").clamp_min(1))
            for sum_, tie, share in zip(made, ties, shares, strict=True):
                sum_.addcmul_(tie, share)
        return (None, None, *made)


__all__ = ["AGGREGATES", "aggregate", "degrees"]
