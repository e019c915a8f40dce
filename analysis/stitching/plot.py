"""The picture of a family: score against FLOPs of all routes, with the anchors and the Pareto front."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from weightspace.analysis.stitching.pareto import line
from weightspace.plotting import BLUE, GREEN, INK, QUIET, SKY, VERMILION, canvas, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from weightspace.analysis.stitching.pareto import Report, Row


def drawn(report: "Report") -> "Figure":
    """Draw a report as a figure that belongs to no window: routes before training and after, anchors, and the front."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    trained = any(row.score != row.score_before for row in report.rows)
    with style():
        figure, [[axes]] = canvas(size=(7.8, 3.6))
        if trained:
            axes.scatter(*_points(report.stitches, before=True), s=14, facecolors="none", edgecolors=SKY, label="stitches before training")
            axes.scatter(
                *_points(report.anchors, before=True), s=46, marker="s", facecolors="none", edgecolors=VERMILION, label="anchors before"
            )
        axes.plot(*_between(report.anchors), color=QUIET, linewidth=0.8, linestyle="--", zorder=1)
        axes.plot(*_points(report.front), color=GREEN, linewidth=1.2, drawstyle="steps-post", label="Pareto front", zorder=1,
                  marker="o", markersize=10, markerfacecolor="none")  # fmt: skip
        axes.scatter(*_points(report.stitches), s=14, color=BLUE, label="stitches")
        axes.scatter(*_points(report.anchors), s=46, marker="s", color=VERMILION, label="anchors")
        for at, row in enumerate(report.anchors):
            side = "left" if at == 0 else "right"  # so that names stay inside
            axes.annotate(row.name, (row.flops, row.score), (0, 7), textcoords="offset points", ha=side, fontsize=8, color=INK)
        axes.set(xlabel="FLOPs of one example", ylabel=report.metric.replace("_", " "), xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(x=0.08, y=0.12)
        figure.legend(loc="outside right upper")
    return figure


def _between(anchors: "Sequence[Row]") -> tuple[list[float], list[float]]:
    """The straight lines between anchors, which a logarithmic axis bends."""
    import numpy as np

    ends = [(row.flops, row.score) for row in anchors]
    flops = np.geomspace(ends[0][0], ends[-1][0], 200).tolist() if len(ends) > 1 else []
    return flops, [line(at, ends) for at in flops]


def _points(rows: "Sequence[Row]", *, before: bool = False) -> tuple[list[float], list[float]]:
    return [row.flops for row in rows], [row.score_before if before else row.score for row in rows]


__all__ = ["drawn"]
