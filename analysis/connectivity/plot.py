"""Pictures of paths: the loss and metrics along one with its barrier marked, or along several."""

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from weightspace.plotting import BLUE, INK, SEVERAL, SKY, VERMILION, canvas, key, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from weightspace.analysis.connectivity.curve import Connectivity


def drawn(curve: "Connectivity") -> "Figure":
    """Draw a curve as a figure that belongs to no window; `figure.savefig(path)` writes it."""
    panels = [name for name in curve.barriers if name != "calibrated_loss"]
    with style():
        figure, grid = canvas(len(panels), size=(5.2, 1.9 + 1.2 / len(panels)), sharex=True)
        all_axes = grid[:, 0]
        for axes, name in zip(all_axes, panels, strict=True):
            _draw(axes, curve, name, BLUE)
            if name == "loss" and "calibrated_loss" in curve.barriers:
                _draw(axes, curve, "calibrated_loss", SKY)
                axes.legend()
            axes.set_ylabel(name)
        all_axes[-1].set(xlabel="t, from a (0) to b (1)", xlim=(0, 1))
        figure.suptitle(_title(curve), fontsize=9, color=INK, x=0.02, ha="left")
    return figure


def compared(curves: Mapping[str, "Connectivity"]) -> "Figure":
    """Draw several curves over one another, each quantity that all of them have in a panel of its own."""
    panels = [name for name in next(iter(curves.values())).barriers if all(name in curve.barriers for curve in curves.values())]
    with style():
        figure, grid = canvas(len(panels), size=(5.2, 1.9 + 0.6 / len(panels)), sharex=True)
        all_axes = grid[:, 0]
        for axes, name in zip(all_axes, panels, strict=True):
            for (label, curve), colour in zip(curves.items(), itertools.cycle(SEVERAL)):
                barrier = curve.barriers[name].interpolated
                axes.plot(
                    curve.ts, curve.values[name], color=colour, marker="o", markersize=3, label=f"{key(label)} (barrier {barrier:.3g})"
                )
            axes.set_ylabel(name.replace("_", " "))
            axes.legend()
        all_axes[-1].set(xlabel="t, from a (0) to b (1)", xlim=(0, 1))
    return figure


def _draw(axes: "Axes", curve: "Connectivity", name: str, colour: str) -> None:
    """The values, the line between the ends (dashed), and the barrier as the distance between the two where it is greatest."""
    values, barrier = np.asarray(curve.values[name]), curve.barriers[name]
    axes.plot(curve.ts, values, color=colour, marker="o", markersize=3, label=name.replace("_", " "))
    axes.plot((0, 1), values[[0, -1]], color=colour, linestyle="--", linewidth=0.8, alpha=0.7)
    if not barrier.interpolated > 0:
        return
    at = barrier.interpolated_at
    top, foot = values[curve.ts.index(at)], (1 - at) * values[0] + at * values[-1]
    axes.plot((at, at), (foot, top), color=VERMILION, linewidth=1.4)
    side = -1 if name == "calibrated_loss" else 1  # so that the two numbers of one panel stand apart
    axes.annotate(
        f"{barrier.interpolated:.3g}",
        (at, (foot + top) / 2),
        (4 * side, 0),
        textcoords="offset points",
        color=VERMILION,
        fontsize=8,
        ha="right" if side < 0 else "left",
        va="center",
        bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8},
    )


def _title(curve: "Connectivity") -> str:
    path = {"line": "straight line", "bezier": "Bézier curve"}[curve.path]
    done = {None: "", "reset": ", statistics reset", "repair": ", REPAIR"}[curve.repair]
    return f"{path}{done}: loss barrier {curve.barrier:.3g}, against the worse end {curve.barrier_worse:.3g}"
