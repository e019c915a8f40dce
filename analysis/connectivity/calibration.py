"""The loss at the best softmax temperature: what is left of a barrier when over- and underconfidence are taken away."""

import math

from weightspace.errors import TaskError
from weightspace.symmetry import StateDict
from weightspace.task import Task, logits_of

_COLDEST, _HOTTEST = 1e-2, 1e2


def calibrated_loss(task: Task, state_dict: StateDict) -> tuple[float, float]:
    """Find the temperature T at which the loss of `logits / T` on the task's batches is least; returns that loss and T.

    Interpolated networks are underconfident: their activations have shrunk. Ito et al. (arXiv:2510.08023) find that calibration
    alone makes barriers of wide networks small. They calibrate by a held-out set; here the batches of the task themselves are used, so the
    loss is never above that at T = 1. Cross entropy is convex in 1/T, so one minimum is found; a network that makes no error
    has none, and T ends at the bound (0.01).

    Raises:
        TaskError: the outputs are no logits, or the loss cannot be computed from them.
    """
    from scipy.optimize import minimize_scalar

    kept = [(batch, logits_of(outputs), task.weight(batch)) for batch, outputs in task.run(state_dict)]
    total = sum(weight for *_, weight in kept)

    def loss(log_temperature: float) -> float:
        temperature = math.exp(log_temperature)
        return sum(weight * float(task.loss(logits / temperature, batch)) for batch, logits, weight in kept) / total

    try:
        raw = loss(0.0)
    except (AttributeError, KeyError, TypeError) as error:
        raise TaskError(
            f"the loss failed on a tensor of logits ({type(error).__name__}: {error}); calibration needs a loss of (logits, batch)"
        ) from error
    found = minimize_scalar(loss, bounds=(math.log(_COLDEST), math.log(_HOTTEST)), method="bounded")
    return (float(found.fun), math.exp(float(found.x))) if found.fun < raw else (raw, 1.0)
