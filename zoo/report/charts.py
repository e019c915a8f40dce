"""Charts: figures drawn by matplotlib as inline SVG, in one quiet style with colours that the colour-blind can tell apart."""

import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from weightspace.errors import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito, "Color Universal Design", 2008.
BLUE, ORANGE, SKY, VERMILION, INK = "#0072B2", "#E69F00", "#56B4E9", "#D55E00", "#1f2933"

_STYLE = {
    "axes.edgecolor": "#9aa5b1",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.color": "#e4e7eb",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "weightspace",
    "text.color": INK,
    # A model's name is never a formula.
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}


def svg(draw: "Callable[[Axes], None]", *, width: float = 6.4, height: float = 3.9) -> str:
    """Draw one chart and return it as an `<svg>` element, the same bytes for the same data.

    Args:
        draw: puts data on the axes.
        width: of the drawing in inches; the page scales it.
        height: in inches.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    out = io.BytesIO()
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width, height))
        draw(figure.add_subplot())
        FigureCanvasSVG(figure).print_svg(out, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue().decode("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return re.sub(r'width="[^"]*pt" ', "", re.sub(r'height="[^"]*pt" ', "", text, count=1), count=1)


def ramp(count: int) -> list[Any]:
    """Colours for an ordered series, dark to light, of one map that stays ordered in grey."""
    import matplotlib as mpl

    return [mpl.colormaps["viridis"](0.9 * at / max(count - 1, 1)) for at in range(count)]


def log_axis(axes: "Axes", which: Literal["x", "y"], ticks: Sequence[int | float]) -> None:
    """Give the x or y axis a logarithmic scale with plain numbers at these places."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set(**{f"{which}scale": "log"})
    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(list(ticks)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))


def short(name: str, most: int) -> str:
    """Cut a long name in the middle, where names of models differ least; what a label cannot show is escaped."""
    shown, half = one_line(name, 1000), (most - 1) // 2
    return shown if len(shown) <= most else f"{shown[:half]}…{shown[-half:]}"
