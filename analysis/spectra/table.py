"""What was measured of a checkpoint's layers, as rows, means and pictures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from weightspace.analysis.layers import Layer
from weightspace.analysis.measure import Values
from weightspace.errors import UnknownNameError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class LayerSpectrum:
    """One layer with what was measured of it.

    Attributes:
        layer: whose weight it is.
        values: by measure and key, '' for a measure of one number; what could not be taken is missing.
        note: what could not be measured, and why; empty where all could.
        eigenvalues: of its matrix, descending; empty where it has none.
        size: the longer and the shorter side of its matrix, or of each of its slices.
    """

    layer: Layer
    values: Mapping[str, Values] = field(default_factory=dict)
    note: str = ""
    eigenvalues: Float64[ndarray, " values"] = field(default_factory=lambda: np.empty(0), repr=False)
    size: tuple[int, int] = (0, 0)

    @property
    def flat(self) -> dict[str, Any]:
        """Values by `measure` or `measure.key`; what is not finite is None."""
        return {
            f"{measure}.{key}" if key else measure: None if isinstance(value, float) and not math.isfinite(value) else value
            for measure, found in self.values.items()
            for key, value in found.items()
        }


@dataclass(frozen=True)
class SpectraTable:
    """Layers of a checkpoint with what was measured of them.

    Attributes:
        rows: in the order of the checkpoint.
        measures: names of those that were asked for.
    """

    rows: tuple[LayerSpectrum, ...]
    measures: tuple[str, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of all values, in the order of the measures."""
        found = {name for row in self.rows for name in row.flat}
        order = [name for row in self.rows for name in row.flat] + list(self.measures)
        return tuple(dict.fromkeys(name for name in order if name in found or not any(one.startswith(f"{name}.") for one in found)))

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row a layer: its name, kind and the size of its matrix, every value, and the note."""
        columns = self.columns
        return [
            {"layer": row.layer.name, "kind": row.layer.kind, "rows": row.layer.size[0], "columns": row.layer.size[1]}
            | {name: row.flat.get(name) for name in columns}
            | {"note": row.note}
            for row in self.rows
        ]

    @property
    def summary(self) -> dict[str, float]:
        """The mean of each value over the layers that have it, as WeightWatcher sums a model up; NaN where none has."""
        flats = [row.flat for row in self.rows]
        numbers = {name: [float(one[name]) for one in flats if isinstance(one.get(name), int | float)] for name in self.columns}
        return {name: sum(found) / len(found) if found else math.nan for name, found in numbers.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        """What could not be measured, one line a layer."""
        return tuple(f"{row.layer.name}: {row.note}" for row in self.rows if row.note)

    def row(self, layer: str) -> LayerSpectrum:
        """The row of a layer.

        Raises:
            UnknownNameError: no such layer was measured.
        """
        found = {row.layer.name: row for row in self.rows}
        if layer not in found:
            raise UnknownNameError.of("layer", layer, found)
        return found[layer]

    def __repr__(self) -> str:
        notes = f", {len(self.notes)} with a note" if self.notes else ""
        return f"<SpectraTable of {len(self.rows)} layers: {', '.join(self.measures)}{notes}>"

    def _repr_html_(self) -> str:
        """One row a layer for notebooks: the first value of each measure."""
        from weightspace import html

        columns = ["layer", *(name for name in self.columns if "." not in name), *(["note"] if self.notes else [])]
        return html.page(f"Spectra of {len(self.rows)} layers", html.rows(self.table, columns=columns))

    def plot(self, values: Sequence[str] | None = None) -> "Figure":
        """Draw bars, a layer each, in one panel for each of some values, by default the first of each measure; intervals are drawn at their bars."""
        from weightspace.analysis.spectra import plot

        return plot.by_layer(self, values)

    def plot_tails(self, layers: Sequence[str] | None = None) -> "Figure":
        """Draw the eigenvalues' density of some layers, by default of all, twelve at most, with the fitted tail and the edge of noise."""
        from weightspace.analysis.spectra import plot

        chosen = self.rows if layers is None else [self.row(name) for name in layers]
        return plot.tails([row for row in chosen if len(row.eigenvalues)][:12])
