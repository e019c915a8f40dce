"""The picture of a card: scores against novelty, the generator's beside those of the zoo and of every baseline."""

from typing import TYPE_CHECKING

from weightspace.errors import GenerationError
from weightspace.plotting import BLUE, GREEN, INK, ORANGE, PURPLE, VERMILION, canvas, short, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from weightspace.analysis.generation.card.card import Card

_COLOURS = {"noise": BLUE, "mean": GREEN, "gaussian": ORANGE}
_TOLD = {"iou": "max-IoU of wrong predictions with the zoo (left is newer)", "distance": "distance to the zoo (right is newer)"}


def axis_of(card: "Card") -> str | None:
    """What novelty was measured by, `iou` or `distance`; None where it was not."""
    own = card.rows[0]
    return "iou" if own.iou is not None else "distance" if own.distance is not None else None


def drawn(card: "Card") -> "Figure":
    """Draw a card as a figure that belongs to no window; lines join the settings of one method.

    Raises:
        GenerationError: novelty was not measured, so there is nothing to draw the scores against.
    """
    key = axis_of(card)
    if key is None:
        raise GenerationError("novelty was not measured, so there is no picture; judge on a task with classes, or leave compared above 0")
    with style():
        figure, [[axes]] = canvas(size=(8.4, 4.2))
        _draw(axes, card, key)
        axes.set(xlabel=_TOLD[key], ylabel=short(card.metric))
        figure.legend(loc="outside right upper")
    return figure


def _draw(axes: "Axes", card: "Card", key: str) -> None:
    for method in dict.fromkeys(row.method for row in card.rows):
        points = [(getattr(row, key), row.score) for row in card.rows if row.method == method and row.score is not None]
        points = [(x, y) for x, y in points if x is not None]
        if not points:
            continue
        x, y = zip(*(sorted(points) if method == "generator" else points), strict=True)  # the generator as it is comes first
        if method == "generator":
            own = card.rows[0]
            axes.plot(x, y, color=VERMILION, lw=1, zorder=3)
            axes.errorbar(
                [getattr(own, key)], [own.score or 0.0], yerr=own.score_std or 0.0, color=VERMILION, fmt="*", ms=15, zorder=4, label="generator"
            )  # fmt: skip
        elif method == "zoo":
            axes.plot(x, y, "s", color=INK, ms=7, zorder=3, label="the zoo itself")
        elif method in _COLOURS:
            axes.plot(x, y, "o-", color=_COLOURS[method], ms=4.5, lw=1.3, label=method)
        else:
            face = "none" if method == "pruned" else None
            axes.plot(x, y, "D", color=PURPLE, ms=6, alpha=0.9, label=method, markerfacecolor=face)


__all__ = ["axis_of", "drawn"]
