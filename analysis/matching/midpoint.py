"""The loss half-way between two networks, which the methods that look at a task bring down."""

from collections.abc import Iterator

import torch
from torch import Tensor

from weightspace.analysis.connectivity.paths import blend
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.errors import TaskError
from weightspace.symmetry import StateDict
from weightspace.task import Batch, Task


def on_device(weights: Checkpoint | StateDict, task: Task) -> dict[str, Tensor]:
    """All tensors of a network, on the device of a task's module."""
    return {name: tensor.detach().to(task.device) for name, tensor in state_of(weights).items()}


def path_loss(a: StateDict, b: StateDict, task: Task, *, times: tuple[float, ...] = (0.5,), batch_statistics: bool = False) -> float:
    """Measure the mean over times and batches of the loss of `(1 - t) a + t b`.

    Args:
        a: where the path begins.
        b: where it ends.
        task: what the loss is of.
        times: t.
        batch_statistics: whether batch norms use the statistics of each batch.

    Raises:
        TaskError: the task has no batches, or a state dict does not fit.
    """
    total = 0.0
    for t in times:
        between = blend((1 - t, t), (a, b))
        added = counted = 0.0
        with torch.no_grad():
            for batch in task.batches:
                weight = task.weight(batch)
                added += weight * float(task.loss_of(between, batch, batch_statistics=batch_statistics))
                counted += weight
        if not counted:
            raise TaskError("the task has no batches, and needs at least one to match on; give it data")
        total += added / counted
    return total / len(times)


def cycled(task: Task) -> Iterator[Batch]:
    """A task's batches, again and again."""
    while True:
        yield from task.batches
