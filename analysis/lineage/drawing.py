"""A picture of the families: roots at the left, children to their right, colours for what was done."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from weightspace.analysis import plotting

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from weightspace.analysis.lineage.edge import Edge

_COLOURS = {
    "finetune": plotting.BLUE,
    "continued": plotting.BLUE,
    "lora": plotting.SKY,
    "adapter": plotting.SKY,
    "merge": plotting.PURPLE,
    "pruned": plotting.ORANGE,
    "quantised": plotting.VERMILION,
    "cast": plotting.VERMILION,
    "permuted": plotting.GREEN,
    "rescaled": plotting.GREEN,
    "renamed": plotting.GREEN,
    "copy": plotting.GREEN,
}
_MOST = 160  # models that a picture shows


def drawn(families: Sequence[Sequence[str]], edges: Sequence["Edge"]) -> "Figure":
    """Draw families of two or more, the largest first, as a figure that belongs to no window."""
    from matplotlib.lines import Line2D

    shown = [family for family in families if len(family) > 1]
    kept: list[Sequence[str]] = []
    for family in shown:
        if not kept or sum(map(len, kept)) + len(family) <= _MOST:
            kept.append(family)
    places = _places(kept, edges)
    depth = max((x for x, _ in places.values()), default=0)
    with plotting.style():
        figure, [[axes]] = plotting.canvas(size=(3.4 + 1.5 * (depth + 1), 0.8 + 0.2 * max(4, len(places) + len(kept))))
        used = [edge for edge in edges if edge.parent in places and edge.child in places]
        for edge in used:
            (x0, y0), (x1, y1) = places[edge.parent], places[edge.child]
            colour = _COLOURS.get(edge.kind, plotting.INK)
            style = "-" if edge.is_directed else ":"
            axes.plot((x0, x0 + 0.12, x1), (y0, y1, y1), color=colour, lw=0.6 + 1.2 * edge.probability, ls=style, alpha=0.8, zorder=1)
        for name, (x, y) in places.items():
            axes.plot(x, y, "o", color=plotting.INK, ms=3, zorder=2)
            axes.annotate(plotting.short(name, 34), (x, y), (5, 0), textcoords="offset points", va="center", fontsize=6.5, zorder=3,
                          bbox={"boxstyle": "square,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.75})  # fmt: skip
        kinds = list(dict.fromkeys(edge.kind for edge in used))
        handles = [Line2D([], [], color=_COLOURS.get(kind, plotting.INK), label=kind) for kind in kinds]
        if handles:
            axes.legend(handles=handles, frameon=False, fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=min(6, len(handles)))
        axes.set_axis_off()
        axes.set(xlim=(-0.2, depth + 1.2), ylim=(max((y for _, y in places.values()), default=0) + 1, -1))
        if len(kept) < len(shown):
            axes.text(0, axes.get_ylim()[0], f"and {len(shown) - len(kept)} smaller families", fontsize=7, color=plotting.QUIET)
    return figure


def _places(families: Sequence[Sequence[str]], edges: Sequence["Edge"]) -> Mapping[str, tuple[float, float]]:
    """Where each model stands: generations to the right, a row each, children under their first parent."""
    children: dict[str, list[str]] = {}
    has_parent: set[str] = set()
    for edge in edges:
        if edge.child not in has_parent:
            children.setdefault(edge.parent, []).append(edge.child)
            has_parent.add(edge.child)
    made: dict[str, tuple[float, float]] = {}
    row = 0
    for family in families:
        stack = [(name, 0) for name in reversed(family) if name not in has_parent]
        while stack:
            name, depth = stack.pop()
            if name in made:
                continue
            made[name] = float(depth), float(row)
            row += 1
            stack += [(child, depth + 1) for child in reversed(children.get(name, []))]
        row += 1
    return made
