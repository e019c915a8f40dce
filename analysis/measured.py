"""What a measure said of models or of pairs of them, as a table and as a picture."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from weightspace.analysis.measure import Measure, Values
from weightspace.analysis.plotting import bars, heat_map, heat_maps
from weightspace.errors import AnalysisError, UnknownNameError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BETWEEN = "|"
"""What stands between the two names of a key that belongs to a pair of layers; before them may be that of one of several tables."""


@dataclass(frozen=True)
class Measured:
    """Results of one measure.

    Attributes:
        measure: what was taken.
        names: the model, or both models, of each result.
        values: what it said of them.
    """

    measure: Measure
    names: tuple[tuple[str, ...], ...]
    values: tuple[Values, ...]

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row a result and key: `model`, or `a` and `b`; `key`; `value`, which is text where the measure says text."""
        titles = ("a", "b") if self.measure.of in ("pair", "task pair") else ("model",)
        return [
            {**dict(zip(titles, names, strict=True)), "key": key, "value": value}
            for names, values in zip(self.names, self.values, strict=True)
            for key, value in values.items()
        ]

    def plot(self, key: str | None = None) -> "Figure":
        """Draw it.

        One result is drawn by its keys: as heat maps where they name pairs of layers, else as bars. Several are drawn by one key: as
        bars, one a model, or as a heat map of all pairs.

        Args:
            key: which of several keys; the first one if left out.

        Raises:
            UnknownNameError: there is no such key.
            AnalysisError: the measure gave no numbers.
        """
        numbers = [{name: _number(value) for name, value in one.items() if not isinstance(value, str)} for one in self.values]
        keys = list(dict.fromkeys(name for one in numbers for name in one))
        if not keys:
            raise AnalysisError(f"measure '{self.measure.name}' gave no numbers to draw; print its table")
        if key is not None and key not in keys:
            raise UnknownNameError.of(f"key of measure '{self.measure.name}'", key, keys)
        label = self.measure.name + (f" [{self.measure.unit}]" if self.measure.unit else "")
        if len(self.values) == 1 and key is None:
            return _by_key(numbers[0], label, " and ".join(self.names[0]))
        key = key or keys[0]
        label = f"{label}: {key}" if key else label
        drawn = [one.get(key) for one in numbers]
        is_pair = len(self.names[0]) == 2
        return (
            _by_pair(self.names, drawn, label, self.measure.is_symmetric)
            if is_pair
            else bars([names[0] for names in self.names], drawn, label)
        )


def _number(value: float | int | str | None) -> float | None:
    return None if value is None or isinstance(value, str) or not math.isfinite(value) else float(value)


def _by_key(values: Mapping[str, float | None], label: str, name: str) -> "Figure":
    several: dict[str, dict[str, float | None]] = {}
    for key, value in values.items():
        if key.count(BETWEEN) == 2:
            which, _, pair = key.partition(BETWEEN)
            several.setdefault(which, {})[pair] = value
    if several:
        tables = [_table(one) for one in several.values()]
        rows, columns = (list(dict.fromkeys(name for table in tables for name in table[at])) for at in (1, 2))
        return heat_maps(
            {which: (one[0], None) for which, one in zip(several, tables, strict=True)}, rows, columns, title=f"{label}: {name}"
        )
    pairs = {key: value for key, value in values.items() if key.count(BETWEEN) == 1}
    return heat_map(*_table(pairs), label) if pairs else bars([key or name for key in values], list(values.values()), label)


def _table(values: Mapping[str, float | None]) -> tuple[np.ndarray, list[str], list[str]]:
    """Values of pairs of layers as a matrix, with the names of rows and columns."""
    rows, columns = (list(dict.fromkeys(key.split(BETWEEN)[place] for key in values)) for place in (0, 1))
    table = np.full((len(rows), len(columns)), np.nan)
    for key, value in values.items():
        row, column = key.split(BETWEEN)
        table[rows.index(row), columns.index(column)] = np.nan if value is None else value
    return table, rows, columns


def _by_pair(names: Sequence[tuple[str, ...]], values: Sequence[float | None], label: str, is_symmetric: bool) -> "Figure":
    every = list(dict.fromkeys(name for pair in names for name in pair))
    table = np.full((len(every), len(every)), np.nan)
    for (a, b), value in zip(names, values, strict=True):
        place = every.index(a), every.index(b)
        table[place] = np.nan if value is None else value
        if is_symmetric and np.isnan(table[place[::-1]]):
            table[place[::-1]] = table[place]
    return heat_map(table, every, every, label)
