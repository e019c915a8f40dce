"""What stacked networks are worth on a task: a score each, and on a classification where they err and how sure they are."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.analysis.generation.card.novelty import TOGETHER, Stacked, calibration_error, classes_of, length, logits, wrong
from weightspace.analysis.generation.target import Target
from weightspace.errors import GenerationError
from weightspace.task import Task


@dataclass(frozen=True, eq=False)
class Judged:
    """Networks on a task.

    Attributes:
        metric: what the scores are: `accuracy`, else the task's first metric, else `-loss`; more is better.
        scores: of each network.
        wrong: which of the examples that have a class each gets wrong; None where the task is no classification.
        calibration: expected calibration error of each; likewise.
        ensemble: accuracy of their mean probabilities; likewise.
    """

    metric: str
    scores: Float[Tensor, " networks"]
    wrong: Bool[Tensor, "networks examples"] | None = None
    calibration: Float[Tensor, " networks"] | None = None
    ensemble: float | None = None


def judge(task: Task, networks: Stacked, target: Target) -> Judged:
    """Run networks on a task.

    Args:
        task: examples that nothing was learned from.
        networks: (networks, *shape) of the tensors that the target makes.
        target: adds what goes into every network as it is.

    Raises:
        TaskError: the networks do not fit the task.
    """
    try:
        classes = classes_of(task)
    except GenerationError:
        return _scored(task, networks, target)
    seen = classes != -100
    errors, calibration, probabilities = [], [], torch.zeros(())
    for at in range(0, length(networks), TOGETHER):
        found = logits(task, {name: tensor[at : at + TOGETHER] for name, tensor in networks.items()}, target)
        errors.append(wrong(found, classes))
        calibration.append(calibration_error(found, classes))
        probabilities = probabilities + found.double().softmax(-1).sum(0)
    total, missed = max(1, int(seen.sum())), torch.cat(errors)[:, seen]
    hits = (probabilities.argmax(-1) == classes) & seen
    return Judged("accuracy", 1 - missed.double().sum(1) / total, missed, torch.cat(calibration), int(hits.sum()) / total)


def _scored(task: Task, networks: Stacked, target: Target) -> Judged:
    metric = "accuracy" if "accuracy" in task.metrics else next(iter(task.metrics), "-loss")
    parts = ({name: tensor[at : at + TOGETHER] for name, tensor in networks.items()} for at in range(0, length(networks), TOGETHER))
    values = [found for part in parts for found in task.evaluate_many(part, target.whole)]
    return Judged(metric, torch.tensor([-one["loss"] if metric == "-loss" else one[metric] for one in values], dtype=torch.float64))


__all__ = ["Judged", "judge"]
