"""The loss barrier on the straight line between two networks."""

from collections.abc import Collection
from typing import Literal

from weightspace.analysis.connectivity.curve import LOWER_IS_BETTER, Connectivity, Evaluate, along
from weightspace.analysis.connectivity.paths import line
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.symmetry import StateDict
from weightspace.task import Task


def barrier(
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    task: Task | Evaluate,
    points: int = 25,
    *,
    repair: Literal["reset", "repair"] | None = None,
    calibrate: bool = False,
    lower_is_better: Collection[str] = LOWER_IS_BETTER,
    statistics: Task | None = None,
) -> Connectivity:
    """Measure loss and metrics along `(1 - t) a + t b` (Frankle et al., arXiv:1912.05671; Entezari et al., arXiv:2110.06296).

    The barrier is the most by which the loss on the way is above the line between the losses of the ends; that above the worse
    end is reported beside it. For a metric it is the most by which it falls below. With `repair`, every state dict on the way is
    corrected before it is measured, the ends too.

    Args:
        a: one network.
        b: another, already aligned to a.
        task: a `Task`, or a function of a state dict that returns its loss, or the loss and metrics by name.
        points: how many, evenly spaced, the ends included.
        repair: None, `reset` or `repair`; see `repair`.
        calibrate: also measure the loss at the best softmax temperature of each point.
        lower_is_better: names of what is worse when it rises; every other metric is worse when it falls.
        statistics: whose batches `repair` measures on, such as training examples; by default those of `task`.

    Raises:
        TaskError: fewer than two points, repair or calibration without a `Task`, or an evaluation that gives no numbers.
        UnknownNameError: the two have tensors of different names.
        ShapeMismatchError: or of different shapes.

    Example:
        >>> import torch
        >>> a, b = {"w": torch.tensor([-1.0])}, {"w": torch.tensor([1.0])}
        >>> barrier(a, b, lambda state_dict: 1 - state_dict["w"].item() ** 2).barrier
        1.0
    """
    start, end = state_of(a), state_of(b)
    return along(
        line(start, end),
        start,
        end,
        task,
        points=points,
        repair=repair,
        calibrate=calibrate,
        lower_is_better=lower_is_better,
        statistics=statistics,
        kind="line",
    )
