"""The look of all pictures of this wing, and the plain ones that any measure can have: bars by layer, points by model, a heat map."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design", 2008.
BLUE, SKY, VERMILION, GREEN, PURPLE, ORANGE, INK = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#1f2933"
SEVERAL = (VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY)
QUIET = "#9aa5b1"
_STYLE = {
    "axes.edgecolor": QUIET,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.color": "#e4e7eb",
    "text.parse_math": False,  # names are shown as they are, dollars too
    "xtick.color": INK,
    "ytick.color": INK,
}
MOST_NAMES = 60  # more labels than this cannot be read


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw in the house's look."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        yield


def canvas(rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (5.2, 3.0), **options: Any) -> "tuple[Figure, Any]":
    """A figure that belongs to no window, and its axes as an array (rows, columns); `size` is that of one panel, in inches."""
    from matplotlib.figure import Figure

    with style():
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, **options)


def bars(names: Sequence[str], values: Sequence[float | None], label: str) -> "Figure":
    """One bar a layer or model, first at the top; a value that could not be taken leaves a gap."""
    with style():
        figure, [[axes]] = canvas(size=(6.4, 1.0 + 0.18 * min(len(names), 2 * MOST_NAMES)))
        heights = np.array([np.nan if value is None else value for value in values], float)
        axes.barh(np.arange(len(names)), heights, color=BLUE, height=0.7)
        name_axis(axes.yaxis, names)
        axes.set(xlabel=label, ylim=(len(names) - 0.4, -0.6))
    return figure


def heat_map(
    table: Any, rows: Sequence[str], columns: Sequence[str], label: str, *, limits: tuple[float, float] | None = None, title: str = ""
) -> "Figure":
    """A matrix of numbers as colours, light to dark; what is NaN stays white."""
    with style():
        shape = np.asarray(table).shape
        figure, [[axes]] = canvas(size=(min(9.0, 2.2 + 0.12 * shape[1]), min(9.0, 1.4 + 0.12 * shape[0])))
        low, high = limits or (None, None)
        image = axes.imshow(np.asarray(table, float), cmap="cividis", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
        axes.grid(False)
        name_axis(axes.yaxis, rows)
        name_axis(axes.xaxis, columns)
        axes.tick_params(axis="x", rotation=90)
        figure.colorbar(image, ax=axes, label=label)
        if title:
            axes.set_title(title, fontsize=9, color=INK, loc="left")
    return figure


def name_axis(axis: Any, names: Sequence[str]) -> None:
    """Write names at an axis: all, or as many as can be read."""
    step = max(1, -(-len(names) // MOST_NAMES))
    axis.set_ticks(range(0, len(names), step), [_short(name) for name in names[::step]], fontsize=7)


def _short(name: str, limit: int = 44) -> str:
    """The end of a name, which tells layers apart."""
    return name if len(name) <= limit else "…" + name[1 - limit :]


def note(axes: "Axes", text: str) -> None:
    """Write a line above a panel."""
    axes.set_title(text, fontsize=9, color=INK, loc="left")
