"""What loss and metrics do along a path, and the barriers on it."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from torch import Tensor

from weightspace.analysis.connectivity.calibration import calibrated_loss
from weightspace.analysis.connectivity.paths import Path
from weightspace.analysis.connectivity.repair import Prepared, prepare
from weightspace.errors import TaskError
from weightspace.symmetry import StateDict
from weightspace.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Evaluate = Callable[[dict[str, Tensor]], float | Mapping[str, float]]
"""The short form of a task: the loss of a state dict, or the loss and metrics by name."""

LOWER_IS_BETTER = frozenset({"loss", "calibrated_loss", "error", "error_rate", "mae", "mse", "nll", "perplexity", "rmse"})
_SETTINGS = ("temperature",)  # measured along a path, but good neither high nor low


@dataclass(frozen=True)
class Barrier:
    """How much worse one quantity gets along a path; 0 where it gets no worse.

    Attributes:
        quantity: `loss`, `calibrated_loss` or the name of a metric.
        higher_is_better: which way is worse.
        interpolated: the most by which it is worse than `(1 - t) start + t end`.
        interpolated_at: the t of that.
        worse: the most by which it is worse than the worse of the two ends.
        worse_at: the t of that.
    """

    quantity: str
    higher_is_better: bool
    interpolated: float
    interpolated_at: float
    worse: float
    worse_at: float


@dataclass(frozen=True, eq=False)
class Connectivity:
    """A path between two networks, measured.

    Attributes:
        ts: times from 0 (a) to 1 (b).
        values: at each of them the `loss`, each metric, and where calibrated the `calibrated_loss` and its `temperature`.
        barriers: of each quantity.
        path: `line` or `bezier`.
        repair: what was done to each state dict on the way: None, `reset` or `repair`.
        notes: what could not be done, and why.
    """

    ts: tuple[float, ...]
    values: Mapping[str, tuple[float, ...]]
    barriers: Mapping[str, Barrier]
    path: Literal["line", "bezier"] = "line"
    repair: Literal["reset", "repair"] | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def losses(self) -> tuple[float, ...]:
        """The loss at each time."""
        return self.values["loss"]

    @property
    def barrier(self) -> float:
        """The loss barrier against the line between the losses of the ends."""
        return self.barriers["loss"].interpolated

    @property
    def barrier_worse(self) -> float:
        """The loss barrier against the worse end."""
        return self.barriers["loss"].worse

    def table(self) -> list[dict[str, float]]:
        """One row for each time: `t`, and every quantity."""
        return [{"t": t, **{name: values[at] for name, values in self.values.items()}} for at, t in enumerate(self.ts)]

    def plot(self) -> "Figure":
        """Draw the loss, and metrics below it, along the path, each with its barrier."""
        from weightspace.analysis.connectivity.plot import drawn

        return drawn(self)

    def _repr_html_(self) -> str:
        """The barriers and the points of the path for notebooks."""
        from weightspace import html

        barriers = [
            {"quantity": name, "barrier": one.interpolated, "at t": one.interpolated_at, "against the worse end": one.worse}
            for name, one in self.barriers.items()
        ]
        notes = [html.rows([{"note": note} for note in self.notes])] if self.notes else []
        repaired = f", {self.repair}" if self.repair else ""
        return html.page(f"Connectivity along a {self.path}{repaired}", html.rows(barriers), html.rows(self.table()), *notes)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name} {one.interpolated:.4g} at t={one.interpolated_at:.2f}" for name, one in self.barriers.items())
        return f"<Connectivity {self.path} of {len(self.ts)} points, repair {self.repair}; barriers: {shown}>"


def along(
    path: Path,
    a: StateDict,
    b: StateDict,
    task: Task | Evaluate,
    *,
    points: int,
    repair: Literal["reset", "repair"] | None,
    calibrate: bool,
    lower_is_better: Collection[str],
    statistics: Task | None = None,
    kind: Literal["line", "bezier"],
) -> Connectivity:
    """Measure a path between a and b at evenly spaced times, the ends included; see `barrier` for the arguments.

    Raises:
        TaskError: fewer than two points, or repair or calibration without a `Task`, or an evaluation that gives no numbers.
    """
    if points < 2:
        raise TaskError(f"expected at least 2 points on the path, found {points}; 25 is usual")
    if not isinstance(task, Task) and (repair or calibrate):
        raise TaskError("repair and calibration look into the module, and found a function alone; give a Task in its place")
    prepared: Prepared | None = prepare(statistics or task, (a, b), repair) if isinstance(task, Task) and repair else None
    ts = tuple(at / (points - 1) for at in range(points))
    rows = []
    for t in ts:
        state_dict = path(t)
        if prepared is not None:
            state_dict = prepared.apply(state_dict, (1 - t, t)).state_dict
        rows.append(_measured(task, state_dict, calibrate))
    values = {name: tuple(row.get(name, math.nan) for row in rows) for name in rows[0]}
    barriers = {name: barrier_of(name, ts, values[name], name not in lower_is_better) for name in values if name not in _SETTINGS}
    return Connectivity(ts, values, barriers, kind, repair, prepared.notes if prepared else ())


def barrier_of(quantity: str, ts: Sequence[float], values: Sequence[float], higher_is_better: bool) -> Barrier:
    """Find where a quantity is worst against its ends; one that is not a number anywhere is worst there.

    Example:
        >>> barrier_of("loss", (0.0, 0.5, 1.0), (0.1, 0.9, 0.3), higher_is_better=False)
        Barrier(quantity='loss', higher_is_better=False, interpolated=0.7, interpolated_at=0.5, worse=0.6..., worse_at=0.5)
    """
    times, badness = np.asarray(ts), np.asarray(values) * (-1 if higher_is_better else 1)
    start, end = badness[0], badness[-1]
    rises = badness - ((1 - times) * start + times * end), badness - max(start, end)
    tops = [int(np.argmax(rise)) for rise in rises]
    (first, second), (at, worse_at) = [float(rise[top]) for rise, top in zip(rises, tops, strict=True)], [float(times[top]) for top in tops]
    return Barrier(quantity, higher_is_better, first, at, second, worse_at)


def _measured(task: Task | Evaluate, state_dict: dict[str, Tensor], calibrate: bool) -> dict[str, float]:
    if isinstance(task, Task):
        values = task.evaluate(state_dict)
        if calibrate:
            values["calibrated_loss"], values["temperature"] = calibrated_loss(task, state_dict)
        return values
    found = task(state_dict)
    given = dict(found) if isinstance(found, Mapping) else {"loss": found}
    values = {name: value.item() if isinstance(value, Tensor) and value.numel() == 1 else value for name, value in given.items()}
    odd = next((f"{name}: {type(value).__name__}" for name, value in values.items() if not isinstance(value, int | float)), None)
    if odd is not None or "loss" not in values:
        found_text = odd or f"only {', '.join(map(str, values)) or 'an empty mapping'}"
        raise TaskError(f"the evaluation returned {found_text}; expected a number, or numbers by name, 'loss' among them")
    return {name: float(value) for name, value in values.items()}
