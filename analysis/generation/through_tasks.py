"""Training a generator through the tasks of the networks that it makes: what the weights do is judged, not what they are."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.generation.generator import Progress
from weightspace.analysis.generation.material import stacked
from weightspace.errors import GenerationError
from weightspace.task import Batch, Task

WeightsOf = Callable[[int], Mapping[str, Tensor]]
"""Makes the whole state dict of task k, differentiably."""

ManyWeightsOf = Callable[[Sequence[int]], Sequence[Mapping[str, Tensor]]]
"""Makes the whole state dicts of several tasks at once, differentiably."""


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
    many_weights_of: ManyWeightsOf | None = None,
    batch_statistics: bool = False,
) -> list[float]:
    """Minimise the mean loss of the tasks under the weights made for each.

    Tasks of one module, loss and shape of batches run side by side (see `losses`), which gives the same faster.

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
        many_weights_of: makes the weights for several tasks, where that is faster at once than one after the other.
        batch_statistics: whether batch norms use the statistics of each batch.

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
        given = [batches[at][int(torch.randint(len(batches[at]), (), generator=generator))] for at in drawn]
        made = many_weights_of(drawn) if many_weights_of else [weights_of(at) for at in drawn]
        loss = losses([tasks[at] for at in drawn], made, given, batch_statistics=batch_statistics).mean()
        if not loss.isfinite():
            raise GenerationError(f"the loss became {float(loss.detach())} at step {step + 1}; lower the learning rate")
        optimizer.zero_grad()
        torch.autograd.backward(loss if penalty is None else loss + penalty())
        optimizer.step()
        lost.append(float(loss.detach()))
        progress(step + 1, steps)
    return lost


def losses(
    tasks: Sequence[Task], weights: Sequence[Mapping[str, Tensor]], batches: Sequence[Batch], *, batch_statistics: bool = False
) -> Float[Tensor, " tasks"]:
    """The loss of each task on a batch of its own, under weights of its own, differentiably.

    Where tasks share their module, loss and forward (the very objects), and the batches are tensors of equal shapes, one vectorised
    call computes all; else, and where torch cannot vectorise the module, it is one call after the other.

    Args:
        tasks: at least one.
        weights: a whole state dict for each.
        batches: one for each.
        batch_statistics: whether batch norms use the statistics of each batch.
    """
    if len(tasks) > 1 and _is_shared(tasks) and _is_alike(batches):
        together = tuple(torch.stack(parts) for parts in zip(*batches, strict=True))
        try:
            found: Tensor = torch.func.vmap(partial(tasks[0].loss_of, batch_statistics=batch_statistics), randomness="different")(
                stacked(weights), together
            )
            return found
        except (RuntimeError, ValueError):  # control flow that looks at values, or an operator without a rule
            pass
    return torch.stack(
        [task.loss_of(row, batch, batch_statistics=batch_statistics) for task, row, batch in zip(tasks, weights, batches, strict=True)]
    )


def _is_shared(tasks: Sequence[Task]) -> bool:
    first = tasks[0]
    return all(one.module is first.module and one.loss is first.loss and one.forward is first.forward for one in tasks)


def _is_alike(batches: Sequence[Batch]) -> bool:
    """Whether batches are tuples of tensors that can be stacked."""
    told = {_told(batch) for batch in batches}
    return len(told) == 1 and None not in told


def _told(batch: Batch) -> Any:
    if not isinstance(batch, tuple | list) or not all(isinstance(part, Tensor) for part in batch):
        return None
    return tuple((part.shape, part.dtype) for part in batch)


__all__ = ["ManyWeightsOf", "WeightsOf", "learn_through", "losses"]
