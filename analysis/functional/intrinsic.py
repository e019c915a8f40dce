"""Intrinsic dimension: in how small a random subspace of its weights a network can still be trained to most of what it reaches.

Li, Farkhoor, Liu and Yosinski, Measuring the Intrinsic Dimension of Objective Landscapes (arXiv:1804.08838).
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.functional.moving import parameters_of, replaced
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.modules import tensors_of
from weightspace.symmetry import StateDict
from weightspace.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Projection = Callable[[Tensor], Tensor]
PROJECTIONS, STARTS = ("dense", "sparse"), ("drawn", "given")


@dataclass(frozen=True)
class IntrinsicDimension:
    """What subspaces of several dimensions reach.

    Attributes:
        dimension: the least one tried that reaches the threshold; None if none does.
        parameters: of the whole network.
        threshold: the share of the baseline that is asked for, times the baseline.
        baseline: the metric of the network itself.
        reached: the metric by dimension.
        metric: which.
    """

    dimension: int | None
    parameters: int
    threshold: float
    baseline: float
    reached: Mapping[int, float]
    metric: str

    def values(self) -> dict[str, float | None]:
        """The dimension, the baseline, and the metric by key "metric@dimension"."""
        found = {f"{self.metric}@{dimension}": value for dimension, value in sorted(self.reached.items())}
        return {"dimension": self.dimension, "parameters": self.parameters, "baseline": self.baseline, **found}

    def plot(self) -> "Figure":
        """Draw what was reached by dimension, with the threshold and the baseline."""
        from weightspace.plotting import BLUE, QUIET, VERMILION, canvas, far_axis, note, short, style

        with style():
            figure, [[axes]] = canvas()
            axes.plot(*zip(*sorted(self.reached.items()), strict=True), color=BLUE, marker="o", markersize=4)
            axes.axhline(self.baseline, color=QUIET, linewidth=0.9, label="the network itself")
            axes.axhline(self.threshold, color=VERMILION, linewidth=0.9, linestyle="--", label="threshold")
            axes.set(xlabel=f"dimensions of the subspace, of {self.parameters:,}", ylabel=short(self.metric))
            far_axis(axes, "x")
            figure.legend(loc="outside lower center", ncols=2)
            note(axes, f"intrinsic dimension {self.dimension:,}" if self.dimension else "no dimension reaches the threshold")
        return figure


def intrinsic_dimension(
    task: Task,
    weights: Checkpoint | StateDict,
    *,
    train: Task | None = None,
    metric: str = "accuracy",
    share: float = 0.9,
    start: str = "drawn",
    projection: str = "sparse",
    smallest: int = 2,
    largest: int | None = None,
    epochs: int = 20,
    learning_rate: float = 0.05,
    generator: torch.Generator | None = None,
) -> IntrinsicDimension:
    """Search for the least d for which `theta_0 + P theta_d` can be trained to a share of what a network reaches (d_int90).

    Dimensions are doubled until one is enough, then bisected to within an eighth. Training is Adam on theta_d alone; what is
    reached is noisy and depends on it, so the result is the order of magnitude. Running statistics stay those of the network.

    Args:
        task: whose metric is compared.
        weights: of the network that sets the baseline.
        train: whose batches are trained on; by default those of `task`, which is then no test of what was learnt.
        metric: of the task, larger being better.
        share: of the baseline that is asked for.
        start: theta_0 is `drawn` anew by the module's own initialisation, or `given`, the network itself (then at dimension 0 nothing is left to reach).
        projection: see `subspace`.
        smallest: dimension to begin with.
        largest: dimension to end with; by default the number of parameters.
        epochs: passes over the training batches.
        learning_rate: of Adam.
        generator: source of chance; the default starts from seed 0.

    Raises:
        AnalysisError: settings that make no search.
        UnknownNameError: the task has no such metric, or no such projection or start.
    """
    generator = generator or torch.Generator().manual_seed(0)
    state = state_of(weights)
    judged = task.evaluate(state)
    if metric not in judged:
        raise UnknownNameError.of("metric", metric, judged)
    for what, name, known in (("projection", projection, PROJECTIONS), ("start", start, STARTS)):
        if name not in known:
            raise UnknownNameError.of(what, name, known)
    trained = parameters_of(task, state)
    parameters = sum(state[name].numel() for name in trained)
    largest = min(largest or parameters, parameters)
    if not 1 <= smallest <= largest or not 0 < share <= 1 or epochs < 1:
        raise AnalysisError(
            f"expected 1 <= smallest <= largest, a share in (0, 1] and epochs, found {smallest}, {largest}, {share} and {epochs}; correct them"
        )
    origin = state if start == "given" else _drawn(task, state, generator)
    threshold, reached = share * judged[metric], dict[int, float]()

    def is_enough(dimension: int) -> bool:
        if dimension not in reached:
            project = subspace(parameters, dimension, projection, generator=generator)
            made = train_in(train or task, origin, trained, project, dimension, epochs=epochs, learning_rate=learning_rate)
            reached[dimension] = task.evaluate(made)[metric]
        return reached[dimension] >= threshold

    found = _least(is_enough, smallest, largest)
    return IntrinsicDimension(found, parameters, threshold, judged[metric], reached, metric)


def subspace(parameters: int, dimension: int, kind: str = "sparse", *, generator: torch.Generator | None = None) -> Projection:
    """Draw P (parameters x dimension) with columns of length 1, as a function that multiplies by it (section 2 of the paper).

    `dense` draws normal numbers. `sparse` has one entry in about sqrt(parameters) (Li, Hastie and Church, 2006), of either sign, so that it
    takes memory and time of dimension * sqrt(parameters); it stands in for the paper's Fastfood transform too.

    Args:
        parameters: rows.
        dimension: columns.
        kind: `dense` or `sparse`.
        generator: source of chance; the default starts from seed 0.
    """
    generator = generator or torch.Generator().manual_seed(0)
    if kind == "dense":
        matrix = nn.functional.normalize(torch.randn(parameters, dimension, generator=generator), dim=0)
        return lambda theta: matrix.to(theta.device) @ theta
    many = max(1, round(math.sqrt(parameters)))
    rows = torch.stack([torch.randperm(parameters, generator=generator)[:many] for _ in range(dimension)], 1)
    signs = (torch.randint(2, rows.shape, generator=generator) * 2 - 1) / math.sqrt(many)
    return lambda theta: theta.new_zeros(parameters).index_add(0, rows.flatten().to(theta.device), (signs.to(theta) * theta).flatten())


def train_in(
    task: Task, origin: StateDict, names: list[str], project: Projection, dimension: int, *, epochs: int, learning_rate: float
) -> dict[str, Tensor]:
    """Train inside a subspace by Adam, from zero; returns the whole state dict."""
    theta = torch.zeros(dimension, device=task.device, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=learning_rate)
    for _ in range(epochs):
        for batch in task.batches:
            optimizer.zero_grad()
            task.loss_of(_at(origin, names, project(theta)), batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return _at(origin, names, project(theta.detach()))


def _at(origin: StateDict, names: list[str], step: Float[Tensor, " parameters"]) -> dict[str, Tensor]:
    parts = torch.split(step, [origin[name].numel() for name in names])
    moved = {name: origin[name].to(step) + part.view(origin[name].shape) for name, part in zip(names, parts, strict=True)}
    return replaced(origin, moved)


def _drawn(task: Task, state: StateDict, generator: torch.Generator) -> dict[str, Tensor]:
    """The weights as the module's parts initialise themselves, from the generator; what has no initialisation of its own stays."""
    module = copy.deepcopy(task.module)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        for part in module.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset) and not isinstance(part, nn.modules.batchnorm._BatchNorm):
                reset()
    parameters = dict(module.named_parameters())
    drawn = {own: parameters[name].detach() for name, own in tensors_of(task.module, state).items() if name in parameters}
    return replaced(state, drawn)


def _least(is_enough: Callable[[int], bool], smallest: int, largest: int) -> int | None:
    """Double until it is enough, then bisect to within an eighth."""
    low = 0
    for high in _doubled(smallest, largest):
        if is_enough(high):
            break
        low = high
    else:
        return None
    while high - low > max(1, high // 8) and low:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _doubled(smallest: int, largest: int) -> Iterator[int]:
    while smallest < largest:
        yield smallest
        smallest *= 2
    yield largest


__all__ = ["IntrinsicDimension", "intrinsic_dimension", "subspace", "train_in"]
