"""Training a family: one route a step, drawn at random, so that all sizes learn together."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.costs import device_of, flops_of
from weightspace.analysis.stitching.patchwork import Patchwork
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task, logits_of, moved

DISTILS = ("hard", "soft", "none")
Progress = Callable[[int, int], None]
"""Is told how many steps are done, and of how many."""

_NO_DATA = "expected data to train on, found no batches; give the task some"


@dataclass(frozen=True)
class Step:
    """A step of training.

    Attributes:
        route: that was drawn.
        loss: that it had, distillation included.
    """

    route: int
    loss: float


def train(
    patchwork: Patchwork,
    task: Task,
    *,
    steps: int,
    learning_rate: float = 1e-4,
    anchor_rate: float | int = 1.0,
    anchor_share: float | int | None = None,
    distil: str = "hard",
    alpha: float | int = 0.5,
    temperature: float | int = 1.0,
    weight_decay: float = 1e-2,
    generator: torch.Generator,
    progress: Progress = lambda done, total: None,
) -> tuple[Patchwork, list[Step]]:
    """Train all routes of a patchwork jointly (Pan et al., Stitchable Neural Networks, arXiv:2302.06586, section 3.3).

    Every step draws one route and one batch, and AdamW changes what that route runs through; its rate falls to nothing as a cosine. The loss is
    `(1 - alpha) task + alpha distillation`. The teacher is the anchor with most FLOPs as it was before training (the paper takes another, larger network).
    Norms stay in eval mode: batch norms keep their running statistics, dropout drops nothing.

    Args:
        patchwork: is left as it is.
        task: its batches and its loss. A list of batches is run through in an order drawn anew each time; anything else in its own order.
        steps: of AdamW.
        learning_rate: at the first step. The paper takes a tenth of the rate that anchors were trained with.
        anchor_rate: how much of that rate the anchors' parameters learn with; 0 freezes them, and only stitches learn.
        anchor_share: the share of steps that run an anchor, where the paper draws all routes alike (None). Frozen anchors are not drawn.
        distil: `hard` (cross entropy to the class that the teacher finds most likely), `soft` (Kullback-Leibler divergence from its probabilities, times
            temperature^2) or `none`.
        alpha: share of distillation in the loss.
        temperature: by which soft distillation divides logits.
        weight_decay: of AdamW.
        generator: draws routes and batches.
        progress: is told of every step.

    Returns:
        The trained copy, and its steps.

    Raises:
        UnknownNameError: there is no such distillation.
        AnalysisError: a setting is out of range, nothing is left to train, or the loss became infinite or no number.
    """
    if distil not in DISTILS:
        raise UnknownNameError.of("distillation", distil, DISTILS)
    _expect_share("alpha", alpha)
    _expect_share("anchor_share", anchor_share if anchor_share is not None else 0.0)
    made = copy.deepcopy(patchwork).eval()
    batches = _endless(task.batches, generator)
    teacher = _Teacher.of(made, task) if distil != "none" and alpha > 0 else None
    anchors, stitches = ([one for one in part.parameters() if one.requires_grad] for part in (made.chains, made.stitches))
    for one in anchors:
        one.requires_grad_(anchor_rate != 0)
    odds = _odds(made, anchor_share)
    groups = [{"params": anchors, "lr": learning_rate * anchor_rate}, {"params": stitches, "lr": learning_rate}]
    # Fused: with small networks the optimizer would take longer than all else.
    optimizer = torch.optim.AdamW([one for one in groups if one["params"]], lr=learning_rate, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(steps, 1))
    history: list[Step] = []
    for at in range(steps):
        route = int(torch.multinomial(odds, 1, generator=generator))
        number, batch = next(batches)
        batch = moved(batch, device_of(made))
        outputs = task.forward(made.use(route), batch)
        loss = task.loss(outputs, batch)
        if teacher is not None:
            logits, wanted = logits_of(outputs).flatten(0, -2), teacher.logits(number, batch)
            loss = (1 - alpha) * loss + alpha * distillation(logits, wanted, temperature if distil == "soft" else None)
        if not loss.isfinite():
            raise AnalysisError(f"the loss of route {route} became {float(loss.detach())} at step {at + 1}; lower the learning rate")
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        history.append(Step(route, float(loss.detach())))
        progress(at + 1, steps)
    for one in anchors:
        one.requires_grad_(True)
    return made.use(patchwork.route), history


def distillation(logits: Tensor, wanted: Tensor, temperature: float | int | None = None) -> Tensor:
    """How far logits (rows, classes) are from those of a teacher: by its best class, or by all its probabilities at a temperature."""
    if temperature is None:
        return nn.functional.cross_entropy(logits, wanted.argmax(-1))
    ours, theirs = ((one / temperature).log_softmax(-1) for one in (logits, wanted))
    return nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def _odds(patchwork: Patchwork, anchor_share: float | int | None) -> Tensor:
    """How likely each route is drawn; one that runs through nothing that learns is not."""
    learns = torch.tensor([any(one.requires_grad for one in patchwork.parameters_of(at)) for at in range(len(patchwork.routes))])
    if not bool(learns.any()):
        raise AnalysisError("expected something to train, found every route frozen; take anchor_rate above 0, or stitches between anchors")
    anchors = torch.tensor([one.is_anchor for one in patchwork.routes]) & learns
    others = ~anchors & learns
    if anchor_share is None or not bool(anchors.any() and others.any()):
        return learns.double()
    return anchors * (anchor_share / anchors.sum().double()) + others * ((1 - anchor_share) / others.sum().double())


@dataclass(frozen=True)
class _Teacher:
    """A network that does not learn, and its logits (rows, classes) on batches with a number, each computed once."""

    chain: Chain
    task: Task
    known: dict[int, Tensor]

    @classmethod
    def of(cls, patchwork: Patchwork, task: Task) -> "_Teacher":
        """A copy of the anchor with most FLOPs."""
        whole = sorted({one.pieces[0].chain for one in patchwork.routes if one.is_anchor}) or range(len(patchwork.chains))
        batch = next(iter(task.batches), None)
        if batch is None:
            raise AnalysisError(_NO_DATA)
        largest = max(whole, key=lambda at: flops_of(patchwork.chain(at), batch))
        return cls(copy.deepcopy(patchwork.chain(largest)).eval(), task, {})

    def logits(self, number: int | None, batch: Any) -> Tensor:
        if number is not None and number in self.known:
            return self.known[number]
        with torch.no_grad():
            found = logits_of(self.task.forward(self.chain, batch)).flatten(0, -2)
        if number is not None:
            self.known[number] = found
        return found


def _endless(batches: Iterable[Any], generator: torch.Generator) -> Iterator[tuple[int | None, Any]]:
    """Batches over and over: those of a list with their numbers, in an order drawn anew each time."""
    while True:
        empty = True
        if isinstance(batches, Sequence):
            order = torch.randperm(len(batches), generator=generator).tolist()
            found: Iterable[tuple[int | None, Any]] = ((at, batches[at]) for at in order)
        else:
            found = ((None, batch) for batch in batches)
        for one in found:
            empty = False
            yield one
        if empty:
            raise AnalysisError(_NO_DATA)


def _expect_share(name: str, value: float | int) -> None:
    if not 0 <= value <= 1 or math.isnan(value):
        raise AnalysisError(f"expected {name} from 0 to 1, found {value}; give a share")


__all__ = ["DISTILS", "Progress", "Step", "distillation", "train"]
