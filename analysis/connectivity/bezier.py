"""A quadratic Bezier curve between two networks, its control point trained so that the loss along it is low."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from weightspace.analysis.connectivity.curve import LOWER_IS_BETTER, Connectivity, along
from weightspace.analysis.connectivity.paths import blend, quadratic
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.errors import TaskError
from weightspace.modules import tensors_of
from weightspace.symmetry import StateDict
from weightspace.task import Batch, Task


@dataclass(frozen=True, eq=False)
class Bezier:
    """A trained curve between a and b.

    Attributes:
        curve: loss and metrics along it.
        control: the state dict that it is drawn towards.
        training_losses: the loss at each training step, each at another time.
    """

    curve: Connectivity
    control: StateDict = field(repr=False)
    training_losses: tuple[float, ...] = field(repr=False)


def bezier(
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    task: Task,
    *,
    generator: torch.Generator,
    steps: int = 300,
    learning_rate: float = 1e-2,
    points: int = 25,
    repair: Literal["reset", "repair"] | None = None,
    calibrate: bool = False,
    lower_is_better: Collection[str] = LOWER_IS_BETTER,
) -> Bezier:
    """Train the middle of `(1 - t)^2 a + 2 t (1 - t) c + t^2 b` on the loss at t ~ U(0, 1), then measure the curve.

    Garipov et al., "Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs" (arXiv:1802.10026), equations 2 and 4. Here c
    starts at the midpoint, and Adam takes one batch of the task and one t a step. With `repair` (for nets with batch norm: `reset`),
    training uses the statistics of each batch, and the curve is measured with the correction.

    Args:
        a: one end.
        b: the other.
        task: its batches are trained on and measured on, in order.
        generator: draws the times, on the CPU.
        steps: of training.
        learning_rate: of Adam.
        points: of the measured curve.
        repair: as in `barrier`.
        calibrate: as in `barrier`.
        lower_is_better: as in `barrier`.

    Raises:
        TaskError: the state dicts do not fit the module, or it has no parameters to train.
    """
    start, end = state_of(a), state_of(b)
    control = blend((0.5, 0.5), (start, end))
    parameters = dict(task.module.named_parameters())
    names = [own for name, own in tensors_of(task.module, control).items() if name in parameters]
    trained = {
        id(control[name]): control[name].detach().to(task.device, torch.float32).requires_grad_()
        for name in names
        if control[name].is_floating_point()
    }
    if not trained:
        raise TaskError(f"module {type(task.module).__name__} has no float parameters, and a curve trains some; use `barrier`")
    control = {name: trained.get(id(tensor), tensor) for name, tensor in control.items()}  # tied names share a tensor, and stay tied
    optimizer = torch.optim.Adam(list(trained.values()), learning_rate)
    path, losses = quadratic(_on(start, task.device), control, _on(end, task.device)), []
    for batch in _first(steps, task):
        t = torch.rand((), generator=generator).item()
        loss = task.loss_of(path(t), batch, batch_statistics=repair is not None)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    for tensor in trained.values():
        tensor.requires_grad_(False)
    curve = along(
        quadratic(start, control, end),
        start,
        end,
        task,
        points=points,
        repair=repair,
        calibrate=calibrate,
        lower_is_better=lower_is_better,
        kind="bezier",
    )
    return Bezier(curve, control, tuple(losses))


def _on(state_dict: StateDict, device: torch.device) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in state_dict.items()}


def _first(steps: int, task: Task) -> Iterator[Batch]:
    """As many batches as there are steps, from the beginning again when they are through."""
    done = 0
    while done < steps:
        before = done
        for batch in task.batches:
            if done < steps:
                done += 1
                yield batch
        if done == before:
            raise TaskError("the task has no batches, and needs at least one to train on; give it data")
