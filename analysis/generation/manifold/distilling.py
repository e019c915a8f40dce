"""A task with a teacher: a share of its loss is how far outputs are from those of a network that does it already."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from weightspace.errors import GenerationError
from weightspace.task import Task


def distilled(task: Task, teacher: Mapping[str, Tensor], share: float) -> Task:
    """Let a task be learned from a network's outputs too.

    Of outputs that are logits, matching them is learning from all classes at once (Ba and Caruana, arXiv:1312.6184).

    Args:
        task: whose module returns one tensor; its batches are kept with the outputs.
        teacher: state dict of the network.
        share: of the loss that is the squared difference of the outputs, as a share of the variance of the teacher's.

    Raises:
        GenerationError: the module returns something else.
    """
    if not share:
        return task
    pairs = [(batch, _answers(outputs)) for batch, outputs in task.run(teacher)]
    spread = torch.cat([answers.flatten() for _, answers in pairs]).var(correction=0).clamp_min(1e-12)

    def loss(outputs: Any, pair: Any) -> Tensor:
        batch, answers = pair
        apart: Tensor = (outputs - answers).square().mean() / spread
        return (1 - share) * task.loss(outputs, batch) + share * apart

    return replace(
        task,
        batches=pairs,
        loss=loss,
        metrics={},
        forward=lambda module, pair: task.forward(module, pair[0]),
        weight=lambda pair: task.weight(pair[0]),
    )


def _answers(outputs: Any) -> Tensor:
    if not isinstance(outputs, Tensor):
        raise GenerationError(
            f"outputs of type {type(outputs).__name__} cannot be learned from; give the task a `forward` that returns a tensor, or set distil=0"
        )
    return outputs


__all__ = ["distilled"]
