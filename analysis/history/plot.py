"""The picture of a run's history: layers by steps, coloured by relative change, with what broke marked."""

from typing import TYPE_CHECKING

import numpy as np

from weightspace.plotting import INK, ORANGE, QUIET, VERMILION, canvas, name_axis, room, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from weightspace.analysis.history import History

_MARKS = {"broken": ("X", VERMILION, 70), "warning": ("^", ORANGE, 46), "note": ("o", QUIET, 18)}


def drawn(history: "History") -> "Figure":
    """Draw relative change on a logarithmic scale; white where there is none, darkest where a layer did not change."""
    from matplotlib.colors import LogNorm

    changes = history.changes[:, 1:]
    positive = changes[np.isfinite(changes) & (changes > 0)]
    low, high = (float(np.quantile(positive, 0.02)), float(positive.max())) if positive.size else (1e-3, 1.0)
    low = max(min(low, high / 10), high * 1e-6)
    with style():
        size = min(11.0, 2.8 + 0.16 * changes.shape[1]), min(9.0, 1.5 + 0.2 * changes.shape[0])
        figure, [[axes]] = canvas(size=(max(4.8, size[0]) + room(history.layers), size[1]))
        shown = np.where(changes == 0, low, changes)
        image = axes.imshow(shown, norm=LogNorm(low, high, clip=True), aspect="auto", interpolation="nearest")
        axes.grid(False)
        name_axis(axes.yaxis, history.layers)
        name_axis(axes.xaxis, [str(step) for step in history.steps[1:]])
        if changes.shape[1] > 12:
            axes.tick_params(axis="x", rotation=90)
        axes.set_xlabel("step")
        figure.colorbar(image, ax=axes, label="relative change")
        _mark(axes, history)
        if history.events:
            figure.legend(loc="outside lower center", ncols=3, fontsize=8)
        counts = {kind: sum(one.severity == kind for one in history.events) for kind in _MARKS}
        said = ", ".join(f"{number} {kind}" for kind, number in counts.items() if number) or "nothing broke"
        axes.set_title(f"{len(history.steps)} checkpoints: {said}", fontsize=9, color=INK, loc="left")
    return figure


def _mark(axes: "Axes", history: "History") -> None:
    """A mark at the step and layer of each event; what concerns all layers is marked above the first."""
    column, row = {step: at for at, step in enumerate(history.steps[1:])}, {name: at for at, name in enumerate(history.layers)}
    for severity, (shape, colour, size) in _MARKS.items():
        places = [(column.get(one.step, -0.45), row.get(one.layer, -0.45)) for one in history.events if one.severity == severity]
        if places:
            x, y = zip(*places, strict=True)
            axes.scatter(x, y, s=size, marker=shape, color=colour, edgecolors="white", linewidths=0.8, label=severity, clip_on=False)
