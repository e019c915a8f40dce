"""What a family is worth: every route judged, set beside its anchors, and the best within a budget."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from weightspace.analysis.stitching.costs import Cost, costs, device_of
from weightspace.analysis.stitching.patchwork import Patchwork, in_eval
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task, moved

if TYPE_CHECKING:
    import pyarrow as pa
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Row:
    """One route.

    Attributes:
        route: its index.
        name: what runs into what.
        is_anchor: whether it is one network as it is.
        flops, parameters, latency, memory: see `Cost`.
        loss: on the task.
        score: the metric that the report names; larger is better.
        loss_before, score_before: of the same route before training.
        on_front: whether none is as cheap in FLOPs and as good, and better in one of both.
        above_line: of a stitch, whether it is better than the line between the anchors around it in FLOPs.
        beats_both: of a stitch, whether it is better than all the networks it is made of. Anchors count as they were before training, if they were better then.
    """

    route: int
    name: str
    is_anchor: bool
    flops: float
    parameters: int
    latency: float
    memory: float
    loss: float
    score: float
    loss_before: float
    score_before: float
    on_front: bool
    above_line: bool
    beats_both: bool


@dataclass(frozen=True)
class Report:
    """All routes, in the order of FLOPs.

    Attributes:
        metric: what `score` is: a metric of the task, or `-loss`.
        examples: of the batch that latency was measured with.
        rows: of the routes.
    """

    metric: str
    examples: int
    rows: tuple[Row, ...]

    @property
    def anchors(self) -> tuple[Row, ...]:
        """The networks that it began with, with what training cost them: `score - score_before`."""
        return tuple(row for row in self.rows if row.is_anchor)

    @property
    def stitches(self) -> tuple[Row, ...]:
        """All other routes."""
        return tuple(row for row in self.rows if not row.is_anchor)

    @property
    def front(self) -> tuple[Row, ...]:
        """Routes that no other makes needless."""
        return tuple(row for row in self.rows if row.on_front)

    @cached_property
    def spearman(self) -> float:
        """Rank correlation of FLOPs and score over all routes; NaN where one of both is the same for all."""
        return rank_correlation([row.flops for row in self.rows], [row.score for row in self.rows])

    def best(
        self,
        *,
        max_flops: float | int = math.inf,
        max_latency: float | int = math.inf,
        max_parameters: float | int = math.inf,
        max_memory: float | int = math.inf,
    ) -> Row:
        """The route with the best score within a budget, of equals the cheapest; `patchwork.use(row.route)` switches to it.

        Raises:
            AnalysisError: none is so cheap.

        Example:
            >>> row = Row(0, "a", True, 8.0, 4, 1e-6, 16.0, 0.1, 0.9, 0.1, 0.9, True, False, False)
            >>> Report("accuracy", 64, (row,)).best(max_flops=10).name
            'a'
        """
        limits = {"flops": max_flops, "latency": max_latency, "parameters": max_parameters, "memory": max_memory}
        asked = {name: limit for name, limit in limits.items() if limit != math.inf}
        within = [
            row for row in self.rows if not math.isnan(row.score) and all(getattr(row, name) <= limit for name, limit in asked.items())
        ]
        if not within:
            units = {"latency": " s", "memory": " bytes"}
            budget = ", ".join(f"{name} at most {limit:g}{units.get(name, '')}" for name, limit in asked.items())
            least = ", ".join(f"{name} {min(getattr(row, name) for row in self.rows):g}{units.get(name, '')}" for name in asked)
            raise AnalysisError(f"no route is within the budget of {budget}; the least is {least}: raise it, or make smaller anchors")
        return max(within, key=lambda row: (row.score, -row.flops))

    def plot(self) -> "Figure":
        """Draw score against FLOPs of all routes, with the anchors and the front."""
        from weightspace.analysis.stitching.plot import drawn

        return drawn(self)

    def table(self) -> "pa.Table":
        """The rows as an arrow table, one column an attribute."""
        import pyarrow as pa

        return pa.Table.from_pylist([asdict(row) for row in self.rows])

    def markdown(self) -> str:
        """The rows as a markdown table."""
        heads = [
            "route",
            "FLOPs",
            "parameters",
            f"µs (batch {self.examples})",
            f"{self.metric} before",
            self.metric,
            "front",
            "line",
            "both",
        ]
        lines = [heads, ["---"] * len(heads), *map(_cells, self.rows)]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(
    patchwork: Patchwork,
    task: Task,
    *,
    before: Report | None = None,
    metric: str | None = None,
    measured: Sequence[Cost] | None = None,
    repeats: int = 20,
) -> Report:
    """Judge every route on a task.

    Args:
        patchwork: whose routes; the one in use stays in use.
        task: the data, with a loss and metrics.
        before: the same patchwork's before training; without it nothing was trained, and before is now.
        metric: one of the task, of which larger is better; by default its first, or minus the loss where it has none.
        measured: what routes cost; by default that is measured now, or taken from `before`.
        repeats: see `costs`.

    Raises:
        UnknownNameError: the task has no such metric.
        AnalysisError: there are no batches, or `before` or `measured` are of other routes.
    """
    metric = metric or next(iter(task.metrics), "-loss")
    if metric not in (*task.metrics, "-loss"):
        raise UnknownNameError.of("metric", metric, [*task.metrics, "-loss"])
    if before is not None and (len(before.rows) != len(patchwork.routes) or before.metric != metric):
        raise AnalysisError(
            f"expected a report of {metric} on {len(patchwork.routes)} routes from before, found {before.metric} on {len(before.rows)}; "
            "judge the same patchwork before it is trained"
        )
    known = {row.route: row for row in before.rows} if before is not None else {}
    if measured is None and before is not None:
        measured = [Cost(one.flops, one.parameters, one.latency, one.memory, before.examples) for _, one in sorted(known.items())]
    measured = costs(patchwork, task, repeats=repeats) if measured is None else measured
    if len(measured) != len(patchwork.routes):
        raise AnalysisError(f"expected the costs of {len(patchwork.routes)} routes, found {len(measured)}; measure this patchwork")
    judged = list(_judged(patchwork, task, metric))
    past = [(known[at].loss, known[at].score) if known else now for at, now in enumerate(judged)]
    return Report(metric, measured[0].examples, tuple(_rows(patchwork, measured, judged, past)))


def pareto_front(flops: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Indices of those that are not beaten: none is as cheap and as good, and better in one of both; a score that is no number is never among them.

    Example:
        >>> pareto_front([1.0, 2.0, 2.0, 3.0], [0.5, 0.7, 0.6, 0.7])
        [0, 1]
    """
    points = list(zip(flops, scores, strict=True))
    return [
        at
        for at, (cost, score) in enumerate(points)
        if not math.isnan(score)
        and not any(other <= cost and value >= score and (other < cost or value > score) for other, value in points)
    ]


def rank_correlation(x: Sequence[float], y: Sequence[float]) -> float:
    """Spearman's rank correlation; NaN where one of both is the same for all, or holds a NaN."""
    from scipy.stats import spearmanr

    if any(map(math.isnan, (*x, *y))) or len(set(x)) < 2 or len(set(y)) < 2:
        return math.nan
    return float(spearmanr(x, y).statistic)


def line(flops: float, anchors: Sequence[tuple[float, float]]) -> float:
    """The score at some FLOPs on the line through anchors, given as (FLOPs, score) in the order of FLOPs; level beyond the ends."""
    import numpy as np

    return float(np.interp(flops, [cost for cost, _ in anchors], [score for _, score in anchors]))


def _judged(patchwork: Patchwork, task: Task, metric: str) -> Iterator[tuple[float, float]]:
    """Loss and score of each route: means over the batches, weighted as the task does."""
    count, used = len(patchwork.routes), patchwork.route
    losses, scores, total = [0.0] * count, [0.0] * count, 0.0
    with in_eval(patchwork), torch.no_grad():
        for batch in task.batches:
            given, weight = moved(batch, device_of(patchwork)), task.weight(batch)
            for route in range(count):
                outputs = task.forward(patchwork.use(route), given)
                loss = float(task.loss(outputs, given))
                losses[route] += weight * loss
                scores[route] += weight * (-loss if metric == "-loss" else float(task.metrics[metric](outputs, given)))
            total += weight
    patchwork.use(used)
    if not total:
        raise AnalysisError("expected data to judge routes on, found no batches; give the task some")
    return ((loss / total, score / total) for loss, score in zip(losses, scores, strict=True))


def _rows(
    patchwork: Patchwork, measured: Sequence[Cost], judged: Sequence[tuple[float, float]], past: Sequence[tuple[float, float]]
) -> list[Row]:
    """The rows in the order of FLOPs."""
    flops, scores = [one.flops for one in measured], [score for _, score in judged]
    front = set(pareto_front(flops, scores))
    best = {  # an anchor counts as it was or as it is, whichever is better
        one.pieces[0].chain: max(scores[at], past[at][1]) for at, one in enumerate(patchwork.routes) if one.is_anchor
    }
    points = sorted((flops[at], best[one.pieces[0].chain]) for at, one in enumerate(patchwork.routes) if one.is_anchor)
    rows = []
    for at, (route, cost) in enumerate(zip(patchwork.routes, measured, strict=True)):
        parts = [best.get(piece.chain, math.inf) for piece in route.pieces]
        rows.append(
            Row(
                at,
                patchwork.describe(at),
                route.is_anchor,
                cost.flops,
                cost.parameters,
                cost.latency,
                cost.memory,
                *judged[at],
                *past[at],
                at in front,
                not route.is_anchor and bool(points) and scores[at] > line(cost.flops, points),
                not route.is_anchor and scores[at] > max(parts),
            )
        )
    return sorted(rows, key=lambda row: row.flops)


def _cells(row: Row) -> list[str]:
    """A row of the markdown table; anchors stand out."""
    name = f"**{row.name}**" if row.is_anchor else row.name
    marks = ["yes" if said else "" for said in (row.on_front, row.above_line, row.beats_both)]
    latency = "-" if math.isnan(row.latency) else f"{1e6 * row.latency:.2f}"
    return [name, f"{row.flops:,.0f}", f"{row.parameters:,}", latency, f"{row.score_before:.4f}", f"{row.score:.4f}", *marks]


__all__ = ["Report", "Row", "line", "pareto_front", "rank_correlation", "report"]
