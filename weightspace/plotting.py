"""The one look of all pictures: colours, a canvas, names and titles that fit, and files of the same bytes for the same data."""

import contextlib
import functools
import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from weightspace.errors import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design", 2008.
BLUE, SKY, VERMILION, GREEN, PURPLE, ORANGE, INK = "#0072B2", "#56B4E9", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#1f2933"
SEVERAL = (VERMILION, BLUE, GREEN, PURPLE, ORANGE, SKY)
QUIET = "#9aa5b1"
COLOUR_MAP = "cividis"  # of numbers: ordered in grey and for the colour-blind
_STYLE = {
    "axes.edgecolor": QUIET,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 9,
    "grid.color": "#e4e7eb",
    "image.cmap": COLOUR_MAP,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "savefig.dpi": 150,
    "svg.hashsalt": "weightspace",
    "text.color": INK,
    "text.parse_math": False,  # names are shown as they are, dollars too
    "xtick.color": INK,
    "ytick.color": INK,
}
# What a format says of the hour or the program, which would differ between two files of one picture.
_UNSAID = {
    ".svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".png": {"Software": None},
}
_SHOWN = 96  # dots per inch in a notebook
MOST_NAMES = 60  # more labels than this cannot be read
NAME_SIZE, _TITLE_SIZE = 7.0, 9.0  # points


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Draw in the house's look."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE):
        yield


def canvas(rows: int = 1, columns: int = 1, *, size: tuple[float, float] = (5.2, 3.0), **options: Any) -> "tuple[Figure, Any]":
    """A figure that belongs to no window, and its axes as an array (rows, columns); `size` is that of one panel, in inches.

    The figure shows itself in a notebook, and `save` writes it to a file.
    """
    with style():
        figure = _picture()(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False, **options)


@functools.cache
def _picture() -> "type[Figure]":
    """Matplotlib's figure, which also shows itself as what a cell of a notebook returns, without pyplot and its global state."""
    from matplotlib.figure import Figure

    class Picture(Figure):
        """A figure in the house's look."""

        def _repr_png_(self) -> bytes:
            out = io.BytesIO()
            write(self, out, ".png", _SHOWN)
            return out.getvalue()

    return Picture


def save(figure: "Figure", path: str | Path) -> None:
    """Write a figure to a PNG, SVG or PDF file in the house's look, the same bytes for the same data."""
    write(figure, Path(path), Path(path).suffix.lower())


def write(figure: "Figure", target: "Path | io.BytesIO", suffix: str, dpi: int | None = None) -> None:
    """Write a figure to a file or a buffer; letters that the font lacks become boxes, without a warning."""
    with style(), _any_letters():
        for axes in figure.axes:
            _plain_powers(axes.xaxis)
            _plain_powers(axes.yaxis)
        options: dict[str, Any] = {} if dpi is None else {"dpi": dpi}
        figure.savefig(target, format=suffix[1:] or None, metadata=_UNSAID.get(suffix), **options)


def svg(figure: "Figure") -> str:
    """A figure as the element of a page that gives it its width: letters stay letters, and the same data give the same bytes."""
    import matplotlib as mpl

    out = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        write(figure, out, ".svg")
    text = out.getvalue().decode("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r' (?:width|height)="[^"]*pt"', "", text, count=2)


def ramp(count: int) -> list[Any]:
    """Colours for an ordered series, dark to light."""
    import matplotlib as mpl

    return [mpl.colormaps[COLOUR_MAP](0.9 * at / max(count - 1, 1)) for at in range(count)]


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

    class Plain(LogFormatter):
        """Numbers as 0.02, where matplotlib's are 2e-02."""

        def _num_to_string(self, value: float, *_: float) -> str:
            return f"{value:g}"

    if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
        axis.set_major_formatter(Plain())
    if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
        axis.set_minor_formatter(Plain(minor_thresholds=(2, 0.5)))


def far_axis(axes: "Axes", side: Literal["x", "y"]) -> None:
    """Make an axis logarithmic, with few plain numbers at it: 0.01, 5, 20k; without anything above 0 it stays as it is."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    axis = axes.xaxis if side == "x" else axes.yaxis
    if math.isinf(axis.get_minpos()):
        return
    axes.set(**{f"{side}scale": "log"})
    low, high = sorted(axis.get_view_interval())
    thousands = EngFormatter(sep="")
    axis.set_major_locator(LogLocator(numticks=6, subs=(1.0,) if high > 1000 * low else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: thousands(value) if value >= 1000 else f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def few_numbers(axis: Any, *, are_whole: bool) -> None:
    """Write few numbers at a linear axis: whole ones between whole values, and large ones as 5k or 1.25M, or in full where they differ little."""
    from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

    low, high = sorted(axis.get_view_interval())
    largest = max(abs(low), abs(high))
    is_large = largest >= 10_000
    is_close = high - low < 0.01 * largest
    axis.set_major_locator(MaxNLocator(3 if is_close else 6, integer=are_whole, min_n_ticks=1))
    if is_large:
        thousands = EngFormatter(sep="")
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.{0 if are_whole else 3}f}" if is_close else thousands(value)))


def from_zero(axes: "Axes", values: Iterable[float]) -> None:
    """Let bars of nothing but zeros stand at the beginning of their axis, and not in its middle."""
    if not any(value and not math.isnan(value) for value in values):
        axes.set_xlim(0, 1)


def name_axis(axis: Any, names: Sequence[str]) -> None:
    """Write names at an axis: all, or as many as can be read."""
    step = max(1, -(-len(names) // MOST_NAMES))
    axis.set_ticks(range(0, len(names), step), [short(name) for name in names[::step]], fontsize=NAME_SIZE)


def short(name: str, limit: int = 44) -> str:
    """The end of a name, which tells layers apart, with control characters written out."""
    shown = one_line(name[-limit - 1 :])  # escapes are longer than what they stand for
    return shown if len(shown) <= limit else "…" + shown[1 - limit :]


def key(name: str, limit: int = 30) -> str:
    """A name as a legend takes it: it leaves out what begins with an underscore."""
    shown = short(name, limit)
    return f" {shown}" if shown.startswith("_") else shown or " "


def room(names: Sequence[str]) -> float:
    """Inches that the longest of some names takes beside an axis."""
    return max((_width(short(name), NAME_SIZE) for name in names), default=0.0)


def _width(text: str, size: float) -> float:
    """Inches that a line takes."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    with _any_letters():
        points, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return float(points) / 72


def note(axes: "Axes", text: str, inches: float | None = None) -> None:
    """Write a line, or several, above a panel; of one that is wider than so many inches, or the picture, the end is shown."""
    most = (
        axes.figure.bbox.width / axes.figure.dpi - 0.4 if inches is None else inches
    ) - 0.6  # what stands left of a panel takes room as well
    lines = [_cut(one_line(line), most) for line in text.split("\n")]
    axes.set_title("\n".join(lines), fontsize=_TITLE_SIZE, color=INK, loc="left")


def _cut(line: str, inches: float) -> str:
    """The end of a title that fits."""
    width = _width(line, _TITLE_SIZE)
    return line if width <= inches else short(line, max(2, int(len(line) * inches / width)))


def title_above(figure: "Figure", text: str) -> None:
    """Write one line above all panels of a figure."""
    figure.suptitle(_cut(one_line(text), figure.get_figwidth() - 0.6), fontsize=_TITLE_SIZE, color=INK, x=0.02, ha="left")
