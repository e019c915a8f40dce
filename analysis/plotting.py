"""The plain pictures that any measure can have: bars by layer, points by model, heat maps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from weightspace.plotting import BLUE, MOST_NAMES, canvas, from_zero, name_axis, note, room, short, style, title_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def bars(names: Sequence[str], values: Sequence[float | None], label: str) -> "Figure":
    """One bar a layer or model, first at the top; a value that could not be taken, or is not finite, leaves a gap."""
    with style():
        figure, [[axes]] = canvas(size=(max(6.4, 3.6 + room(names)), 1.0 + 0.18 * min(len(names), 2 * MOST_NAMES)))
        heights = np.array([np.nan if value is None or not np.isfinite(value) else value for value in values], float)
        axes.barh(np.arange(len(names)), heights, color=BLUE, height=0.7)
        from_zero(axes, heights)
        name_axis(axes.yaxis, names)
        axes.set(xlabel=short(label), ylim=(len(names) - 0.4, -0.6))
    return figure


def heat_map(
    table: Any, rows: Sequence[str], columns: Sequence[str], label: str, *, limits: tuple[float, float] | None = None, title: str = ""
) -> "Figure":
    """A matrix of numbers as colours, light to dark; what is NaN stays white."""
    with style():
        shape = np.asarray(table).shape
        width = max(1.9 + min(7.0, 0.12 * shape[1]), 0.6 + 1.4 * room(title.split("\n")))
        height = max(1.3 + min(7.6, 0.12 * shape[0]) + room(columns), 0.6 + 1.4 * room([label]))
        figure, [[axes]] = canvas(size=(width + room(rows), height))
        low, high = limits or (None, None)
        image = axes.imshow(np.asarray(table, float), vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        axes.grid(False)
        name_axis(axes.yaxis, rows)
        name_axis(axes.xaxis, columns)
        axes.tick_params(axis="x", rotation=90)
        figure.colorbar(image, ax=axes, label=short(label))
        if title:
            note(axes, title, width)
    return figure


def heat_maps(
    panels: Mapping[str, tuple[Any, tuple[float, float] | None]], rows: Sequence[str], columns: Sequence[str], *, title: str = ""
) -> "Figure":
    """Matrices of the same rows and columns side by side, by label, each with the values between which its colours go."""
    with style():
        shape = (len(rows), len(columns))
        size = 1.9 + min(5.0, 0.14 * shape[1]), max(1.5 + min(7.6, 0.14 * shape[0]) + room(columns), 0.6 + 1.2 * room(list(panels)))
        figure, [every] = canvas(1, len(panels), size=(size[0] + room(rows) / len(panels), size[1]), sharey=True)
        for axes, (label, (table, limits)) in zip(every, panels.items(), strict=True):
            low, high = limits or (None, None)
            image = axes.imshow(np.asarray(table, float), vmin=low, vmax=high, aspect="auto", interpolation="nearest")
            axes.grid(False)
            name_axis(axes.xaxis, columns)
            axes.tick_params(axis="x", rotation=90)
            figure.colorbar(image, ax=axes, label=short(label))
        name_axis(every[0].yaxis, rows)
        if title:
            title_above(figure, title)
    return figure
