"""Pictures of intruder dimensions: similarities of one layer, counts of all layers, and sweeps of lambda."""

from typing import TYPE_CHECKING

import numpy as np

from weightspace.analysis.plotting import heat_map
from weightspace.plotting import BLUE, INK, ORANGE, QUIET, SEVERAL, VERMILION, canvas, name_axis, note, short, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from weightspace.analysis.intruders.layer import LayerIntruders
    from weightspace.analysis.intruders.result import Intruders
    from weightspace.analysis.intruders.sweep import Sweep

MOST_COLUMNS = 256  # more vectors of the base are shown by the largest of each run


def similarity_drawn(found: "Intruders", layer: "LayerIntruders") -> "Figure":
    """Each tuned vector against the base's as a heat map; rows of intruders are marked."""
    table = layer.similarity.numpy()
    step = max(1, -(-table.shape[1] // MOST_COLUMNS))
    starts = np.arange(0, table.shape[1], step)
    shown = np.maximum.reduceat(table, starts, axis=1) if table.size else table
    marks = {"kept": "", "intruder": " ◄", "degenerate": " ○"}
    rows = [f"{one.rank}{marks[one.status]}" for one in layer.vectors[: len(table)]]
    counted = f"{layer.count} intruder{'s' * (layer.count != 1)} of {len(layer.vectors)} ({layer.guarded} guarded)"
    title = f"{layer.name}: {counted}\n{found.side} vectors, tuned down, base across; ◄ intruder, ○ in a flat band"
    return heat_map(shown, rows, [str(at + 1) for at in starts], "|cosine| with the base's vectors", limits=(0.0, 1.0), title=title)


def counts_drawn(found: "Intruders") -> "Figure":
    """Counts of all layers as bars, the guarded ones dark; what random updates give as marks."""
    layers = found.layers
    with style():
        figure, [[axes]] = canvas(size=(6.4, 1.2 + 0.18 * min(len(layers), 120)))
        places = np.arange(len(layers))
        axes.barh(places, [one.count for one in layers], color=QUIET, height=0.7, label="in a flat band of the base")
        axes.barh(places, [one.guarded for one in layers], color=BLUE, height=0.7, label="guarded")
        if any(one.null for one in layers):
            means = [float(np.mean(one.null)) if one.null else np.nan for one in layers]
            axes.plot(means, places, color=VERMILION, linestyle="", marker="|", markersize=7, label="random updates")
        name_axis(axes.yaxis, [one.name for one in layers])
        axes.set(xlabel=f"intruders among the first {found.k} (similarity under {found.epsilon:g})", ylim=(len(layers) - 0.4, -0.6))
        axes.set_xlim(0, max(1.0, *axes.get_xlim()))
        figure.legend(loc="outside lower left", ncols=3)
        note(
            axes,
            f"{found.count} intruder{'s' * (found.count != 1)} in {len(layers)} layer{'s' * (len(layers) != 1)}, {found.guarded} guarded",
        )
    return figure


def sweep_drawn(sweep: "Sweep") -> "Figure":
    """Each quantity against lambda, a line for the intruders and one for each control."""
    with style():
        figure, panels = canvas(len(sweep.quantities), 1, size=(5.2, 2.2), sharex=True)
        for [axes], quantity in zip(panels, sweep.quantities, strict=True):
            for what, colour in zip(sweep.kinds, (SEVERAL[0], BLUE, ORANGE, INK), strict=False):
                rows = [row for row in sweep.rows if row["scaled"] == what]
                axes.plot(
                    [row["lambda"] for row in rows], [row[quantity] for row in rows], color=colour, marker="o", markersize=3, label=what
                )
            axes.axvline(1, color=QUIET, linewidth=0.8, linestyle="--")
            axes.set_ylabel(short(quantity))
        figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
        panels[-1][0].set_xlabel("λ: 0 removes, 1 changes nothing")
    return figure
