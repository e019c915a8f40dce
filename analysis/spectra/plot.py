"""Pictures of spectra: bars by layer, and the density of eigenvalues with what was fitted to it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from weightspace import plotting
from weightspace.analysis.spectra.marchenko_pastur import by_median
from weightspace.analysis.spectra.power_law import fit
from weightspace.errors import AnalysisError, UnknownNameError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from weightspace.analysis.spectra.table import LayerSpectrum, SpectraTable

_INTERVALS = {"alpha": ("alpha_interval.low", "alpha_interval.high"), "alpha_hat": ("alpha_interval.hat_low", "alpha_interval.hat_high")}
_BINS = 60
_PANELS = 4  # in a row


def by_layer(table: "SpectraTable", values: Sequence[str] | None = None) -> "Figure":
    """Draw one panel a value, one bar a layer, the first at the top; see `SpectraTable.plot`."""
    chosen = [name for name in table.columns if "." not in name] if values is None else list(values)
    unknown = next((name for name in chosen if name not in table.columns), None)
    if unknown is not None:
        raise UnknownNameError.of("value", unknown, table.columns)
    rows, names = [row.flat for row in table.rows], [row.layer.name for row in table.rows]
    places = np.arange(len(names))
    with plotting.style():
        height = 1.0 + 0.16 * min(len(names), 2 * plotting.MOST_NAMES)
        columns = max(1, min(_PANELS, len(chosen)))
        size = (2.4 if len(chosen) > 1 else 5.4, height)
        figure, panels = plotting.canvas(max(1, -(-len(chosen) // columns)), columns, size=size, sharey=True)
        for axes, name in zip(panels.flat, chosen, strict=False):
            found = _numbers(rows, name)
            axes.barh(places, found, color=plotting.BLUE, height=0.7)
            plotting.from_zero(axes, found)
            if name in _INTERVALS:
                low, high = (_numbers(rows, end) for end in _INTERVALS[name])
                axes.hlines(places, low, high, color=plotting.VERMILION, linewidth=1.4)
            axes.set_xlabel(name)
        for axes in panels.flat[len(chosen) :]:
            axes.set_axis_off()
        for axes in panels[:, 0]:
            plotting.name_axis(axes.yaxis, names)
        panels[0, 0].set_ylim(len(names) - 0.4, -0.6)
    return figure


def _numbers(rows: Sequence[dict[str, Any]], name: str) -> Any:
    return np.array([np.nan if row.get(name) is None or not np.isfinite(row[name]) else row[name] for row in rows], float)


def tails(rows: Sequence["LayerSpectrum"]) -> "Figure":
    """Draw the density of the eigenvalues of each layer over logarithmic axes; see `SpectraTable.plot_tails`."""
    if not rows:
        raise AnalysisError("no layer has eigenvalues to draw, expected at least one; look at the notes of the table")
    columns = min(3, len(rows))
    with plotting.style():
        figure, panels = plotting.canvas(-(-len(rows) // columns), columns, size=(3.6, 2.7))
        for axes, row in zip(panels.flat, rows, strict=False):
            _tail(axes, row)
        for axes in panels.flat[len(rows) :]:
            axes.set_axis_off()
        lines = {label: line for axes in panels.flat for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
        figure.legend(lines.values(), lines.keys(), loc="outside lower center", ncols=4, fontsize=8)
    return figure


def _tail(axes: Any, row: "LayerSpectrum") -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values = row.eigenvalues[row.eigenvalues > 0]
    name = plotting.short(row.layer.name, 40)
    plotting.note(axes, name)
    if not len(values):
        axes.text(0.5, 0.5, "all zero", transform=axes.transAxes, ha="center", color=plotting.INK)
        axes.set(xticks=[], yticks=[])
        return
    bins = np.geomspace(values.min() * 0.99, values.max() * 1.01, min(_BINS, 10 + len(values) // 4))
    heights, _ = np.histogram(values, bins, density=True)
    middle, seen = np.sqrt(bins[1:] * bins[:-1]), heights > 0
    axes.plot(middle[seen], heights[seen], "o", markersize=3, color=plotting.BLUE, label="eigenvalues")
    law = by_median(row.eigenvalues, row.size)
    if law.sigma > 0:
        x = np.geomspace(max(law.low, values.min()), law.edge, 400)
        density = law.density(x)
        inside = density > heights[seen].min() / 4
        axes.plot(x[inside], density[inside], color=plotting.QUIET, linewidth=1.2, label="noise (Marchenko-Pastur)")
        axes.axvline(law.edge, color=plotting.QUIET, linestyle="--", linewidth=1, label="its edge")
    tail = fit(row.eigenvalues)
    if tail is not None:
        x = np.geomspace(tail.xmin, values.max(), 50)
        share = tail.n / len(values)
        axes.plot(
            x, share * (tail.alpha - 1) / tail.xmin * (x / tail.xmin) ** -tail.alpha, color=plotting.VERMILION, label="power law from xmin"
        )
        plotting.note(axes, f"{name}\nalpha {tail.alpha:.2f}, n {tail.n} of {len(values)}, D {tail.distance:.3f}")
    axes.set(xscale="log", yscale="log", xlabel="eigenvalue", ylabel="density")
    for axis in (axes.xaxis, axes.yaxis):
        low, high = axis.get_view_interval()
        axis.set_major_locator(LogLocator(numticks=6, subs=(1.0,) if high > 40 * low else (1.0, 2.0, 5.0)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
