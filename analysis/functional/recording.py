"""Activations of layers over a task's data, laid out as (samples, units), one batch in memory at a time."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.analysis.connectivity.layers import BatchNorm, Calls, channel_dim
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.symmetry import StateDict
from weightspace.task import Task

POSITIONS = ("samples", "pooled", "units")
"""What becomes of the places of a feature map or the tokens of a sequence: each a sample of its own (units are channels), their mean, or
each a unit of its own beside the channels."""


def running(task: Task, weights: Checkpoint | StateDict) -> list[str]:
    """The linear and convolutional layers that run, in order of their first calls.

    Raises:
        AnalysisError: there are none.
    """
    names = [name for name in Calls.of(task, weights).names if not isinstance(task.module.get_submodule(name), BatchNorm)]
    if not names:
        raise AnalysisError(
            f"expected linear or convolutional layers, module {type(task.module).__name__} runs none; name the submodules to look at"
        )
    return names


def chosen(task: Task, weights: Checkpoint | StateDict, layers: Sequence[str] | None) -> list[str]:
    """The submodules that are named, or all layers that run.

    Raises:
        UnknownNameError: the module has no such submodule.
    """
    if layers is None:
        return running(task, weights)
    known = [name for name, _ in task.module.named_modules() if name]
    unknown = next((name for name in layers if name not in known), None)
    if unknown is not None:
        raise UnknownNameError.of("submodule", unknown, known)
    return list(layers)


def recorded(
    task: Task, weights: Checkpoint | StateDict, names: Sequence[str], *, positions: str = "samples"
) -> Iterator[dict[str, Tensor]]:
    """Iterate over what submodules give for each batch: (examples, places, units) by name, in float64; one place unless they are samples.

    Args:
        task: the module and its data.
        weights: of the network.
        names: of submodules.
        positions: what becomes of places and tokens.

    Raises:
        UnknownNameError: no such way with positions.
    """
    if positions not in POSITIONS:
        raise UnknownNameError.of("way with positions", positions, POSITIONS)
    modules = {name: task.module.get_submodule(name) for name in names}
    state = state_of(weights)
    for batch in task.activations(state, names):
        yield {name: _laid(modules[name], values, positions) for name, values in batch.items()}


def recorded_pairs(
    task: Task, a: Checkpoint | StateDict, b: Checkpoint | StateDict, names: Sequence[str], *, positions: str = "samples"
) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Iterate over what each submodule gives in two networks, batch by batch: its name, and activations as `recorded` lays them out."""
    one, two = side_by_side(task, task)
    for left, right in zip(recorded(one, a, names, positions=positions), recorded(two, b, names, positions=positions), strict=True):
        yield from ((name, left[name], right[name]) for name in names)


class _Read:
    """Batches that are read already, to be iterated over once."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self.batches


def side_by_side(task: Task, other: Task) -> tuple[Task, Task]:
    """Two tasks that are run through once, batch by batch in turn; the same batches of both are read once, so that a loader may shuffle them."""
    if other.batches is not task.batches:
        return task, other
    first, second = itertools.tee(task.batches)
    return replace(task, batches=_Read(first)), replace(other, batches=_Read(second))


def flat(values: Tensor) -> Tensor:
    """(examples, places, units) as (samples, units)."""
    return values.flatten(0, 1)


def _laid(module: nn.Module, values: Tensor, positions: str) -> Tensor:
    values = values.detach().double()
    if values.ndim < 2:
        raise AnalysisError(
            f"a submodule of type {type(module).__name__} gives a tensor of shape {tuple(values.shape)}, expected examples and units; "
            "name another one"
        )
    # A map of no known kind has its channels second, as convolutions have; a sequence has them last.
    is_map = isinstance(module, nn.modules.conv._ConvNd | BatchNorm) or values.ndim > 3
    dim = 1 if is_map and not isinstance(module, nn.modules.conv._ConvNd) else channel_dim(module, values)
    spread = values.movedim(dim, -1).reshape(len(values), -1, values.shape[dim])
    if positions == "samples":
        return spread
    return spread.mean(1, keepdim=True) if positions == "pooled" else spread.flatten(1)[:, None]


def shuffled(values: Tensor, generator: torch.Generator) -> Tensor:
    """Examples of a batch in another order: what is left between two networks then is not about the examples."""
    return values[torch.randperm(len(values), generator=generator).to(values.device)]


__all__ = ["POSITIONS", "chosen", "flat", "recorded", "running", "shuffled", "side_by_side"]
