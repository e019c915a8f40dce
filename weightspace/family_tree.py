"""A family tree of models: parents above their children, a row each, colours for what was done and width for how sure it is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from weightspace.plotting import BLUE, GREEN, INK, NAME_SIZE, ORANGE, PURPLE, QUIET, SKY, VERMILION, canvas, key, note, room, short, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = {
    "finetune": BLUE, "continued": BLUE, "lora": SKY, "adapter": SKY, "merge": PURPLE, "pruned": ORANGE, "quantised": VERMILION,
    "cast": VERMILION, "permuted": GREEN, "rescaled": GREEN, "renamed": GREEN, "copy": GREEN,
}  # fmt: skip
_MOST = 100  # models that a picture shows
_MOST_KINDS = 12  # that a legend names
_INDENT, _ROW = 0.32, 0.19  # inches
_WIDEST = 6.0  # inches that all generations take together


class Link(NamedTuple):
    """That one model comes from another.

    Attributes:
        parent, child: names.
        kind: what was done: finetune, merge, ...
        confidence: its probability.
        is_directed: whether it is known which of the two was first.
    """

    parent: str
    child: str
    kind: str
    confidence: float = 1.0
    is_directed: bool = True


class _Place(NamedTuple):
    depth: int
    row: int


def family_tree(links: Sequence[Link]) -> "Figure":
    """Draw the families that links make, the largest first, as a figure that belongs to no window.

    Of several parents, as a merge has, a model stands under the first; thinner lines lead to the others. Of more than 100 models the first are drawn.
    """
    places, count = _places(links)
    depth = max((place.depth for place in places.values()), default=0)
    indent = min(_INDENT, _WIDEST / max(1, depth))
    with style():
        width = max((place.depth * indent + 1.08 * room([name]) for name, place in places.items()), default=0.0)
        rows = max((place.row for place in places.values()), default=0) + 1
        said = _said(links, places, count)
        figure, [[axes]] = canvas(size=(max(4.2, width + 0.7), 0.9 + 0.14 * said.count("\n") + _ROW * max(3, rows)))
        # In inches, so that names fit beside their points.
        axes.set(xlim=(-0.15, max(4.2, width + 0.7) - 0.25), ylim=(_ROW * (max(3, rows) - 0.3), -0.7 * _ROW))
        axes.set_axis_off()
        at = {name: (place.depth * indent, place.row * _ROW) for name, place in places.items()}
        kinds = _lines(axes, links, at)
        for name, (x, y) in at.items():
            axes.plot(x, y, "o", color=INK, ms=3.5, zorder=3)
            axes.annotate(short(name), (x, y), (5, 0), textcoords="offset points", va="center", fontsize=NAME_SIZE, zorder=4,
                          bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8})  # fmt: skip
        _legend(figure, kinds)
        note(axes, said, figure.get_figwidth() + 0.3)  # nothing stands left of the panel
    return figure


def _lines(axes: Any, links: Sequence[Link], at: dict[str, tuple[float, float]]) -> list[str]:
    """Draw what leads from parent to child; gives the kinds."""
    seen, drawn = set(), []
    for link in links:
        if link.parent not in at or link.child not in at:
            continue
        (x0, y0), (x1, y1) = at[link.parent], at[link.child]
        is_first = link.child not in seen
        seen.add(link.child)
        style = {"color": _COLOURS.get(link.kind, INK), "linestyle": "-" if link.is_directed else ":"}
        if is_first:
            axes.plot((x0, x0), (y0, y1), color=QUIET, linewidth=0.8, zorder=1)
            axes.plot((x0, x1), (y1, y1), linewidth=0.5 + 2 * link.confidence, zorder=2, **style)
        else:  # beside the line of the first parent
            off = 0.06
            axes.plot((x0 + off, x0 + off, x1), (y0, y1 + off / 2, y1 + off / 2), linewidth=0.4 + link.confidence, zorder=1, **style)
        drawn.append(link.kind)
    return list(dict.fromkeys(drawn))


def _legend(figure: "Figure", kinds: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    shown = kinds[:_MOST_KINDS]
    if not shown:
        return
    handles = [Line2D([], [], color=_COLOURS.get(kind, INK), label=key(kind, 16)) for kind in shown]
    figure.legend(handles=handles, loc="outside lower left", ncols=max(1, min(len(shown), int(figure.get_figwidth() / 1.4))))


def _said(links: Sequence[Link], places: dict[str, _Place], count: int) -> str:
    if not places:
        return "no model here descends from another"
    shown = f"{count:,} models" if count == len(places) else f"{len(places):,} of {count:,} models"
    told = [] if all(link.confidence >= 1 for link in links) else ["width is probability"]
    told += [] if all(link.is_directed for link in links) else ["dotted: direction unknown"]
    return "\n".join(filter(None, (shown, "; ".join(told))))


def _places(links: Sequence[Link]) -> tuple[dict[str, _Place], int]:
    """Where each model stands: a row each, children below their first parent and one step to the right; and how many there are."""
    children: dict[str, list[str]] = {}
    parent: dict[str, str] = {}
    for link in links:
        if link.child not in parent and not _is_under(link.parent, link.child, parent):
            children.setdefault(link.parent, []).append(link.child)
            parent[link.child] = link.parent
    names = dict.fromkeys(name for link in links for name in (link.parent, link.child))
    trees = [_walk(name, children) for name in names if name not in parent]
    made: dict[str, _Place] = {}
    row = 0
    for tree in sorted(trees, key=len, reverse=True):
        for name, depth in tree[: _MOST - len(made)]:
            made[name] = _Place(depth, row)
            row += 1
        row += 1  # between families
        if len(made) == _MOST:
            break
    return made, len(names)


def _is_under(name: str, ancestor: str, parent: dict[str, str]) -> bool:
    """Whether a model stands below another, so that it cannot be its parent as well."""
    while name != ancestor and name in parent:
        name = parent[name]
    return name == ancestor


def _walk(root: str, children: dict[str, list[str]]) -> list[tuple[str, int]]:
    """A tree from its root down, each model with its depth."""
    found, stack = [], [(root, 0)]
    while stack:
        name, depth = stack.pop()
        found.append((name, depth))
        stack += [(child, depth + 1) for child in reversed(children.get(name, []))]
    return found
