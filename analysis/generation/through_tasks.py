"""Training a generator through the tasks of the networks that it makes: what the weights do is judged, not what they are."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from weightspace.analysis.generation.generator import Progress
from weightspace.errors import GenerationError
from weightspace.task import Task

WeightsOf = Callable[[int], Mapping[str, Tensor]]
"""Makes the whole state dict of task k, differentiably."""


def learn_through(
    parameters: Iterable[nn.Parameter],
    weights_of: WeightsOf,
    tasks: Sequence[Task],
    *,
    steps: int,
    learning_rate: float,
    together: int = 1,
    generator: torch.Generator,
    progress: Progress = lambda done, total: None,
    penalty: Callable[[], Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
) -> list[float]:
    """Minimise the mean loss of the tasks under the weights made for each.

    Args:
        parameters: of the generator.
        weights_of: makes the weights for a task.
        tasks: each with batches to learn from.
        steps: of Adam.
        learning_rate: of Adam, constant.
        together: tasks a step, drawn without replacement.
        generator: draws tasks and batches.
        progress: is told of every step.
        penalty: added to every step's loss.
        optimizer: another than Adam.

    Returns:
        The loss of each step, without the penalty.

    Raises:
        GenerationError: the loss became infinite or no number.
    """
    chosen = list(parameters)
    optimizer = optimizer or torch.optim.Adam(chosen, lr=learning_rate)
    batches = [list(task.batches) for task in tasks]
    lost: list[float] = []
    for step in range(steps):
        drawn = torch.randperm(len(tasks), generator=generator)[: max(1, together)].tolist()
        loss = torch.zeros(())
        for at in drawn:
            batch = batches[at][int(torch.randint(len(batches[at]), (), generator=generator))]
            loss = loss + tasks[at].loss_of(weights_of(at), batch) / len(drawn)
        if not loss.isfinite():
            raise GenerationError(f"the loss became {float(loss.detach())} at step {step + 1}; lower the learning rate")
        optimizer.zero_grad()
        torch.autograd.backward(loss if penalty is None else loss + penalty())
        optimizer.step()
        lost.append(float(loss.detach()))
        progress(step + 1, steps)
    return lost


__all__ = ["WeightsOf", "learn_through"]
