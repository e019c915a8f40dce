"""Slices through the loss landscape around a network, along random directions with the norms of its filters.

Li et al., Visualizing the Loss Landscape of Neural Nets (arXiv:1712.09913), section 4.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from weightspace.analysis.connectivity.layers import is_transposed_linear
from weightspace.analysis.functional.moving import parameters_of, replaced
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.errors import AnalysisError
from weightspace.modules import tensors_of
from weightspace.symmetry import StateDict
from weightspace.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Landscape:
    """What a task says of weights on a line or a plane through a network.

    Attributes:
        steps: how far along each direction: 1 is as far as the weights are long.
        directions: 1 or 2.
        losses: for each step of the first direction, and within it of the second.
        metrics: likewise, by name.
    """

    steps: tuple[float, ...]
    directions: int
    losses: tuple[float, ...]
    metrics: Mapping[str, tuple[float, ...]]

    @property
    def at(self) -> list[tuple[float, ...]]:
        """Where each loss was measured."""
        return [(x,) for x in self.steps] if self.directions == 1 else [(x, y) for x in self.steps for y in self.steps]

    def values(self) -> dict[str, float]:
        """Loss and metrics by key "what@step" or "what@step,step"."""
        named = {"loss": self.losses, **self.metrics}
        return {
            f"{what}@{','.join(f'{step:g}' for step in at)}": value
            for what, all in named.items()
            for at, value in zip(self.at, all, strict=True)
        }

    def plot(self) -> "Figure":
        """Draw the loss along the line, or as contours on the plane.

        Raises:
            AnalysisError: no loss on the plane is finite.
        """
        from weightspace.plotting import BLUE, INK, VERMILION, canvas, style

        with style():
            figure, [[axes]] = canvas(size=(4.4, 3.4) if self.directions == 2 else (5.2, 3.0))
            if self.directions == 1:
                axes.plot(self.steps, self.losses, color=BLUE, marker="o", markersize=3)
                axes.axvline(0, color=VERMILION, linewidth=0.8)
                axes.set(xlabel="along a random direction, in lengths of the filters", ylabel="loss")
                return figure
            grid = np.reshape(self.losses, (len(self.steps), -1)).T
            finite = grid[np.isfinite(grid)]
            if not len(finite):
                raise AnalysisError("no loss on the plane is finite, so there is nothing to draw; look nearer to the network, by span")
            # Loss spans orders of magnitude, so levels are as many between each two, unless some of it is not above 0.
            low, high = float(finite.min()), float(finite.max())
            edge = 0.0 if high > low else 0.01 * abs(high) or 1.0
            spaced, norm = (np.geomspace, "log") if low > 0 else (np.linspace, "linear")
            levels = spaced(low - edge, high + edge, 16).tolist()
            filled = axes.contourf(self.steps, self.steps, grid, levels=levels, norm=norm, extend="both")
            axes.contour(self.steps, self.steps, grid, levels=levels, colors=INK, linewidths=0.4)
            axes.plot(0, 0, marker="+", color=VERMILION, markersize=10)
            axes.set(xlabel="first direction", ylabel="second direction", aspect="equal")
            bar = figure.colorbar(filled, ax=axes, label="loss")
            bar.set_ticks(levels[::3], labels=[f"{level:.3g}" for level in levels[::3]])
        return figure


def landscape(
    task: Task,
    weights: Checkpoint | StateDict,
    *,
    directions: int = 1,
    points: int = 21,
    span: float = 1.0,
    generator: torch.Generator | None = None,
) -> Landscape:
    """Measure the loss around a network along one or two random directions, filter by filter as long as its weights.

    Biases and the gains of norms stay as they are, as in the paper's code, and so do running statistics. A direction is drawn for each parameter in the
    order of the module, and the second is not made orthogonal to the first: in so many dimensions it nearly is.

    Args:
        task: the module, its data and its loss.
        weights: of the network.
        directions: 1 for a line, 2 for a plane.
        points: on each axis, evenly spaced; an odd number has the network itself in the middle.
        span: how far to go to each side, in lengths of the filters.
        generator: source of chance; the default starts from seed 0.

    Raises:
        AnalysisError: other than one or two directions, fewer than two points, or a span that is not positive.
    """
    if directions not in (1, 2) or points < 2 or not span > 0:
        raise AnalysisError(
            f"expected 1 or 2 directions, at least 2 points and a span above 0, found {directions}, {points} and {span}; correct them"
        )
    generator = generator or torch.Generator().manual_seed(0)
    state = state_of(weights)
    drawn = [random_direction(task, state, generator) for _ in range(directions)]
    steps = tuple(torch.linspace(-span, span, points, dtype=torch.float64).tolist())
    found = [task.evaluate(_moved(state, drawn, at)) for at in Landscape(steps, directions, (), {}).at]
    metrics = {name: tuple(one[name] for one in found) for name in found[0] if name != "loss"}
    return Landscape(steps, directions, tuple(one["loss"] for one in found), metrics)


def random_direction(task: Task, state: StateDict, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw a direction whose filters have the norms of the network's: `d_i |w_i| / |d_i|` (section 4).

    A filter is what one output is made of, along whichever axis a layer counts its outputs; vectors, such as biases and gains, get no direction.

    Args:
        task: whose module says what is a parameter.
        state: the weights.
        generator: source of chance.
    """
    made: dict[str, Tensor] = {}
    named = {own: name for name, own in tensors_of(task.module, state).items()}
    for name in parameters_of(task, state):
        weight = state[name]
        if weight.ndim < 2:
            continue
        direction = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
        owner, _, attribute = named[name].rpartition(".")
        layer = task.module.get_submodule(owner) if attribute == "weight" else None
        made[name] = direction * (_lengths(layer, weight.detach().double().cpu()) / _lengths(layer, direction))
    return made


def _lengths(layer: nn.Module | None, weight: Tensor) -> Tensor:
    """The norm of the filter that each entry of a weight is in."""
    if layer is not None and is_transposed_linear(layer):
        return _norm(weight, (0,))
    if isinstance(layer, nn.modules.conv._ConvTransposeNd):  # (in, out of a group, cells), inputs group by group
        grouped = weight.reshape(layer.groups, -1, *weight.shape[1:])
        return _norm(grouped, (1, *range(3, grouped.ndim))).expand_as(grouped).flatten(0, 1)
    return _norm(weight, tuple(range(1, weight.ndim)))


def _norm(weight: Tensor, over: tuple[int, ...]) -> Tensor:
    norm: Tensor = torch.linalg.vector_norm(weight, dim=over, keepdim=True)
    return norm


def _moved(state: StateDict, directions: list[dict[str, Tensor]], at: tuple[float, ...]) -> dict[str, Tensor]:
    moved: dict[str, Tensor] = {}
    for name in directions[0]:
        step = sum((amount * one[name] for amount, one in zip(at, directions, strict=True)), torch.zeros(()))
        moved[name] = (state[name].double() + step.to(state[name].device)).to(state[name].dtype)
    return replaced(state, moved)


__all__ = ["Landscape", "landscape", "random_direction"]
