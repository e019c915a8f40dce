"""Charts: figures drawn by matplotlib as inline SVG, in one quiet style with colours that the colour-blind can tell apart."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from weightspace.errors import one_line
from weightspace.plotting import BLUE, INK, ORANGE, SKY, VERMILION, canvas, ramp, style
from weightspace.plotting import svg as drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def svg(draw: "Callable[[Axes], None]", *, width: float = 6.4, height: float = 3.9) -> str:
    """Draw one chart and return it as an `<svg>` element, the same bytes for the same data.

    Args:
        draw: puts data on the axes.
        width: of the drawing in inches; the page scales it.
        height: in inches.
    """
    with style():
        figure, [[axes]] = canvas(size=(width, height))
        draw(axes)
    return drawn(figure)


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


__all__ = ["BLUE", "INK", "ORANGE", "SKY", "VERMILION", "log_axis", "ramp", "short", "svg"]
