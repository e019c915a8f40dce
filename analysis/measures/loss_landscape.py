"""Slices through the loss landscape."""

import torch

from weightspace.analysis.functional.landscape import landscape
from weightspace.analysis.measure import Values, measure
from weightspace.checkpoint import Checkpoint
from weightspace.task import Task


@measure("loss_landscape", of="task", version="2", reference="Li et al., arXiv:1712.09913, section 4")
def loss_landscape(
    task: Task,
    checkpoint: Checkpoint,
    *,
    directions: int = 1,
    points: int = 21,
    span: float = 1.0,
    generator: torch.Generator | None = None,
) -> Values:
    """Loss and metrics along one or two random directions with the norms of the filters.

    Args:
        task: the data and the loss.
        checkpoint: the network in the middle.
        directions: 1 for a line, 2 for a plane.
        points: on each axis.
        span: how far to go to each side, in lengths of the filters.
        generator: source of chance; the default starts from seed 0.

    Returns:
        By key "loss@step" or "loss@step,step", and so for the task's metrics.
    """
    return landscape(task, checkpoint, directions=directions, points=points, span=span, generator=generator).values()
