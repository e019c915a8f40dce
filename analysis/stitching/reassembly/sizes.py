"""Sizes: the FLOPs of one example and the parameters of the parts of a network, and of a stitch between two cuts."""

from dataclasses import dataclass

import torch

from weightspace.analysis.stitching.bridge import Bridge
from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.costs import device_of
from weightspace.analysis.stitching.fitting import Bias
from weightspace.task import Batch, batch_inputs, batch_size, moved


@dataclass(frozen=True)
class Size:
    """What something costs.

    Attributes:
        flops: of matrix products and convolutions for one example, two to a multiplication with addition; nothing else is counted.
        parameters: numbers that can be trained.
    """

    flops: int = 0
    parameters: int = 0

    def __add__(self, other: "Size") -> "Size":
        return Size(self.flops + other.flops, self.parameters + other.parameters)


def part_sizes(chain: Chain, batch: Batch) -> list[Size]:
    """What each part of a chain costs, run on a batch."""
    from torch.utils.flop_counter import FlopCounterMode

    args, kwargs = batch_inputs(moved(batch, device_of(chain)))
    inputs, value, out = (*args, *chain.ordered(kwargs)), None, []
    examples = max(1, int(batch_size(batch)))
    for at, part in enumerate(chain.parts):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            value = chain.run(inputs, value, start=at - 1, stop=at if at < len(chain.cuts) else None)
        out.append(Size(counter.get_total_flops() // examples, sum(one.numel() for one in part.parameters())))
    return out


def stitch_size(bridge: Bridge, bias: Bias = "places") -> Size:
    """What an affine map across a bridge costs, run at each place of the target, or once where one side is a vector."""
    taken, given = bridge.units
    biases = bridge.positions if bias == "places" else 1
    return Size(2 * taken * given * bridge.positions, taken * given + biases * given)


__all__ = ["Size", "part_sizes", "stitch_size"]
