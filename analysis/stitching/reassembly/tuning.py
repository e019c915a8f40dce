"""Fine-tuning what was made of pieces: all of it or its stitches alone, stopped early by a validation task."""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import torch

from weightspace.analysis.stitching.costs import device_of
from weightspace.analysis.stitching.patchwork import Patchwork
from weightspace.errors import AnalysisError
from weightspace.task import Task, moved


def fine_tune(
    patchwork: Patchwork,
    task: Task,
    *,
    steps: int,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    stitches_only: bool = False,
    validation: Task | None = None,
    every: int = 50,
    patience: int | None = None,
    generator: torch.Generator | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Patchwork:
    """Train the route in use on a task, in a copy: AdamW whose rate falls as a half cosine, one batch of the task drawn for each step.

    Batch norms keep their running statistics, as everything in a traced network runs in eval mode.

    Args:
        patchwork: what to train; it is left as it is.
        task: the data and the loss; its module is not used.
        steps: of the optimizer at most; 0 gives a copy.
        learning_rate: at the first step.
        weight_decay: of AdamW.
        stitches_only: whether the pieces stay as they are.
        validation: a task on whose loss the best weights are kept, among them those before the first step.
        every: steps between two looks at validation.
        patience: looks without a better loss, after which training ends; by default it never ends before its time.
        generator: draws the batches.
        progress: is told of every step.

    Raises:
        AnalysisError: no data, nothing to train, or a loss that became infinite or no number.
    """
    generator = generator or torch.Generator().manual_seed(0)
    batches = list(task.batches)
    if not batches:
        raise AnalysisError("expected data to train on, found no batches; give the task some")
    made = copy.deepcopy(patchwork).eval()
    held = {id(one) for one in made.stitches.parameters()}
    learnt = [one for one in made.parameters_of(made.route) if not stitches_only or id(one) in held]
    if not learnt:
        raise AnalysisError("expected parameters to train, found none in this route; give it stitches, or train all of it")
    wanted = {id(one) for one in learnt}
    before = {one: one.requires_grad for one in made.parameters()}
    for one in before:
        one.requires_grad_(id(one) in wanted)
    optimizer = torch.optim.AdamW(learnt, learning_rate, weight_decay=weight_decay)
    best = _Best(made, validation)
    device = device_of(made)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
        batch = moved(batches[int(torch.randint(len(batches), (), generator=generator))], device)
        loss = task.loss(task.forward(made, batch), batch)
        if not loss.isfinite():
            raise AnalysisError(f"the loss became {float(loss.detach())} at step {step + 1}; lower the learning rate")
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        progress(step + 1, steps)
        if ((step + 1) % every == 0 or step + 1 == steps) and best.looks() and best.waited == patience:
            break
    best.restore()
    for one, was in before.items():
        one.requires_grad_(was)
    return made


class _Best:
    """The weights with the lowest validation loss so far."""

    def __init__(self, patchwork: Patchwork, validation: Task | None) -> None:
        self.patchwork = patchwork
        self.judged = replace(validation, module=patchwork) if validation is not None else None
        self.loss, self.waited = math.inf, 0
        self.weights: dict[str, torch.Tensor] | None = None
        self.looks()

    def looks(self) -> bool:
        """Judge the weights as they are now; whether there is anything to judge by."""
        if self.judged is None:
            return False
        loss = self.judged.evaluate(self.patchwork.state_dict())["loss"]
        if loss < self.loss:
            self.loss, self.waited = loss, 0
            self.weights = {name: tensor.detach().clone() for name, tensor in self.patchwork.state_dict().items()}
        else:
            self.waited += 1
        return True

    def restore(self) -> None:
        """Take the best weights back."""
        if self.weights is not None:
            self.patchwork.load_state_dict(self.weights)


__all__ = ["fine_tune"]
