"""What a route costs: FLOPs, parameters, measured latency and the memory of activations, stitches included."""

import math
import statistics
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from weightspace.analysis.stitching.patchwork import Patchwork, batch_like, in_eval
from weightspace.errors import AnalysisError
from weightspace.task import Task, batch_size, call, moved, tensors_in


@dataclass(frozen=True)
class Cost:
    """What one route costs.

    Attributes:
        flops: of one example, counted by `torch.utils.flop_counter`: matrix products, convolutions and attention, where a multiplication with its
            addition counts 2; what works on single values counts nothing.
        parameters: that it runs through, each once.
        latency: seconds for one example in a batch of `examples`, the median over repeats; NaN where it was not measured.
        memory: bytes for one example of what activations hold at most at one time, without inputs and parameters.
        examples: in the batch that was run.
    """

    flops: float
    parameters: int
    latency: float
    memory: float
    examples: int


def costs(
    patchwork: Patchwork,
    task: Task,
    *,
    examples: int = 64,
    repeats: int = 20,
    warm_up: int = 3,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Cost]:
    """Count and measure what every route costs.

    Latency is taken in rounds, each of which runs every route once, so that whatever slows the machine for a while slows all of them.

    Args:
        patchwork: whose routes; the one in use stays in use.
        task: whose first batch is run.
        examples: of that batch at most.
        repeats: rounds; 0 measures no latency.
        warm_up: rounds before, which are not counted.
        clock: tells seconds.

    Raises:
        AnalysisError: there are no batches.
    """
    batch = first_batch(task, examples)
    count, used = int(batch_size(batch)), patchwork.route
    try:
        with in_eval(patchwork):
            counted = [(flops_of(patchwork.use(at), batch), memory_of(patchwork, batch)) for at in range(len(patchwork.routes))]
            taken = _rounds(patchwork, task, batch, repeats, warm_up if repeats else 0, clock)
    finally:
        patchwork.use(used)
    return [
        Cost(
            flops,
            sum(one.numel() for one in patchwork.parameters_of(route)),
            statistics.median(taken[route]) / count if repeats else math.nan,
            memory,
            count,
        )
        for route, (flops, memory) in enumerate(counted)
    ]


def first_batch(task: Task, examples: int) -> Any:
    """The first examples of a task."""
    if next(iter(task.batches), None) is None:
        raise AnalysisError("expected data to run routes on, found no batches; give the task some")
    return batch_like(task.batches, examples)


def flops_of(module: nn.Module, batch: Any) -> float:
    """FLOPs of one example: a multiplication with its addition counts 2; see `Cost`."""
    batch = _beside(module, batch)
    with in_eval(module), torch.no_grad(), FlopCounterMode(display=False) as counter:
        call(module, batch)
    return float(counter.get_total_flops()) / batch_size(batch)


def memory_of(module: nn.Module, batch: Any) -> float:
    """Bytes for one example of what activations hold at most at one time, inputs and parameters left out."""
    batch = _beside(module, batch)
    known = [*tensors_in(batch), *module.parameters(), *module.buffers()]
    with in_eval(module), torch.no_grad(), _Live(known) as live:
        call(module, batch)
    return float(live.peak) / batch_size(batch)


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows how many bytes the tensors hold that operations make."""

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = {one.untyped_storage()._cdata for one in known}
        self.held: dict[int, int] = {}
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for one in tensors_in(made):
            storage = one.untyped_storage()
            key = storage._cdata
            if key not in self.known and key not in self.held:
                self.held[key] = storage.nbytes()
                weakref.finalize(storage, self.held.pop, key, None)
        self.peak = max(self.peak, sum(self.held.values()))
        return made


def _rounds(patchwork: Patchwork, task: Task, batch: Any, repeats: int, warm_up: int, clock: Callable[[], float]) -> list[list[float]]:
    """Seconds of each route in each round that counts."""
    taken: list[list[float]] = [[] for _ in patchwork.routes]
    for at in range(warm_up + repeats):
        for route, seconds in enumerate(taken):
            found = _seconds(patchwork.use(route), task, batch, clock)
            if at >= warm_up:
                seconds.append(found)
    return taken


def _seconds(patchwork: Patchwork, task: Task, batch: Any, clock: Callable[[], float]) -> float:
    """How long the route in use takes for a batch."""
    batch, device = _beside(patchwork, batch), device_of(patchwork)
    with torch.no_grad():
        _wait(device)
        start = clock()
        task.forward(patchwork, batch)
        _wait(device)
        return clock() - start


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's parameters."""
    return next((one.device for one in module.parameters()), torch.device("cpu"))


def _beside(module: nn.Module, batch: Any) -> Any:
    return moved(batch, device_of(module))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


__all__ = ["Cost", "costs", "device_of", "first_batch", "flops_of", "memory_of"]
