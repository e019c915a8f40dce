"""The look of all pictures of this wing, and the plain ones that any measure can have: bars by layer, points by model, a heat map."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from weightspace.errors import one_line

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
_NAME_SIZE, _TITLE_SIZE = 7.0, 9.0  # points


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


def save(figure: "Figure", path: str | Path) -> None:
    """Write a figure to a file in the house's look; letters that the font lacks become boxes, without a warning."""
    with style(), _any_letters():
        for axes in figure.axes:
            _plain_powers(axes.xaxis)
            _plain_powers(axes.yaxis)
        figure.savefig(path)


@contextlib.contextmanager
def _any_letters() -> Iterator[None]:
    """Without matplotlib's warnings about scripts that its font does not have."""
    with warnings.catch_warnings():
        for said in (r"Glyph \d+ .* missing from", "Matplotlib currently does not support .* natively"):
            warnings.filterwarnings("ignore", message=said, category=UserWarning)
        yield


def _plain_powers(axis: Any) -> None:
    """Write numbers of a logarithmic axis without markup, which the house's look shows as it is."""
    from matplotlib.ticker import LogFormatter, LogFormatterMathtext

    if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
        axis.set_major_formatter(LogFormatter())
    if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
        axis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))


def bars(names: Sequence[str], values: Sequence[float | None], label: str) -> "Figure":
    """One bar a layer or model, first at the top; a value that could not be taken leaves a gap."""
    with style():
        figure, [[axes]] = canvas(size=(max(6.4, 3.6 + room(names)), 1.0 + 0.18 * min(len(names), 2 * MOST_NAMES)))
        heights = np.array([np.nan if value is None else value for value in values], float)
        axes.barh(np.arange(len(names)), heights, color=BLUE, height=0.7)
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
        image = axes.imshow(np.asarray(table, float), cmap="cividis", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
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
            image = axes.imshow(np.asarray(table, float), cmap="cividis", vmin=low, vmax=high, aspect="auto", interpolation="nearest")
            axes.grid(False)
            name_axis(axes.xaxis, columns)
            axes.tick_params(axis="x", rotation=90)
            figure.colorbar(image, ax=axes, label=short(label))
        name_axis(every[0].yaxis, rows)
        if title:
            figure.suptitle(_cut(one_line(title), size[0] * len(panels) - 0.6), fontsize=_TITLE_SIZE, color=INK)
    return figure


def name_axis(axis: Any, names: Sequence[str]) -> None:
    """Write names at an axis: all, or as many as can be read."""
    step = max(1, -(-len(names) // MOST_NAMES))
    axis.set_ticks(range(0, len(names), step), [short(name) for name in names[::step]], fontsize=_NAME_SIZE)


def short(name: str, limit: int = 44) -> str:
    """The end of a name, which tells layers apart, with control characters written out."""
    shown = one_line(name[-limit - 1 :])  # escapes are longer than what they stand for
    return shown if len(shown) <= limit else "…" + shown[1 - limit :]


def room(names: Sequence[str]) -> float:
    """Inches that the longest of some names takes beside an axis."""
    return max((_width(short(name), _NAME_SIZE) for name in names), default=0.0)


def _width(text: str, size: float) -> float:
    """Inches that a line takes."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    with _any_letters():
        points, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return float(points) / 72


def note(axes: "Axes", text: str, inches: float | None = None) -> None:
    """Write a line, or several, above a panel; of one that is wider than so many inches, or the picture, the end is shown."""
    most = (axes.figure.bbox.width / axes.figure.dpi if inches is None else inches) - 0.6
    lines = [_cut(one_line(line), most) for line in text.split("\n")]
    axes.set_title("\n".join(lines), fontsize=_TITLE_SIZE, color=INK, loc="left")


def _cut(line: str, inches: float) -> str:
    """The end of a title that fits."""
    width = _width(line, _TITLE_SIZE)
    return line if width <= inches else short(line, max(2, int(len(line) * inches / width)))
