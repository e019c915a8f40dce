"""The stitching penalty: what a network loses when its first parts are those of another, behind a stitch."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.fitting import Pair, crossing
from weightspace.errors import AnalysisError
from weightspace.task import Task, logits_of, moved, tensors_in


@dataclass(frozen=True)
class Penalty:
    """What one stitched network does on examples that its stitch was not found on.

    Attributes:
        loss: of the stitched network.
        end_loss: of the network that its last parts are from, on the same examples.
        agreement: the share of predictions that are those of that network.
    """

    loss: float
    end_loss: float
    agreement: float

    @property
    def value(self) -> float:
        """`loss(stitched) - loss(end)`: about 0 where the front has what the end needs, below 0 where it has more of it."""
        return self.loss - self.end_loss


def penalties(front: Chain, end: Chain, stitches: Mapping[Pair, nn.Module], held_out: Task) -> dict[Pair, Penalty]:
    """Judge stitched networks by the task and by the network whose last parts they have.

    Bansal, Nakkiran and Barak, Revisiting Model Stitching to Compare Neural Representations (arXiv:2106.07682), section 2, where the stitch is
    trained on the task; with one by least squares the penalty is zero-shot. It has a direction. The front runs once for all stitches.

    Args:
        front: whose first parts are taken.
        end: whose last parts are taken.
        stitches: by pair of cuts (-1 of the front: the raw input); functions of what crosses there.
        held_out: the loss, and examples on which no stitch was found.

    Returns:
        By pair, in the order of the stitches; a loss that is not finite stays so.

    Raises:
        AnalysisError: there is no data, or no stitch.
        TaskError: the network gives no logits.
    """
    if not stitches:
        raise AnalysisError("expected stitches to judge, found none; name cuts of both networks")
    fronts = sorted({a for a, _ in stitches})
    totals, whole, weights = dict.fromkeys(stitches, (0.0, 0.0)), 0.0, 0.0
    with torch.no_grad():
        for batch in held_out.batches:
            batch = moved(batch, _device(end))
            weight = held_out.weight(batch)
            outputs = held_out.forward(end, batch)
            predicted = logits_of(outputs).argmax(-1)
            whole, weights = whole + weight * float(held_out.loss(outputs, batch)), weights + weight
            [crossed] = crossing(front, [batch], fronts)
            for (a, b), stitch in stitches.items():
                made = held_out.forward(_Behind(end, stitch(crossed[a].to(predicted.device)), b), batch)
                same = (logits_of(made).argmax(-1) == predicted).double().mean()
                loss, agreed = totals[a, b]
                totals[a, b] = loss + weight * float(held_out.loss(made, batch)), agreed + weight * float(same)
    if not weights:
        raise AnalysisError("expected examples to judge stitches by, found none; give the task some")
    return {pair: Penalty(loss / weights, whole / weights, agreed / weights) for pair, (loss, agreed) in totals.items()}


def redrawn(module: nn.Module, generator: torch.Generator) -> nn.Module:
    """A copy with weights as its layers draw them before training: the random front that a penalty is held against.

    Raises:
        AnalysisError: no layer of it knows how to draw them.
    """
    made, count = copy.deepcopy(module), 0
    with torch.random.fork_rng(devices=[]):  # layers draw from torch's own generator
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for part in made.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset) and next(part.parameters(recurse=False), None) is not None:
                reset()
                count += 1
    if not count:
        raise AnalysisError(
            f"no layer of module {type(module).__name__} has `reset_parameters`, so there is no random front; leave that control out"
        )
    return made


class _Behind(nn.Module):
    """What is behind a cut, with what crosses there given: called with the network's inputs, as the task calls the network."""

    def __init__(self, chain: Chain, features: Tensor, cut: int) -> None:
        super().__init__()
        self.chain, self.features, self.cut = chain, features, cut

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self.chain.run((*inputs, *self.chain.ordered(keywords)), self.features, start=self.cut)


def _device(chain: Chain) -> torch.device:
    return next(tensors_in([*chain.parameters(), *chain.buffers()]), torch.empty(0)).device


__all__ = ["Penalty", "penalties", "redrawn"]
