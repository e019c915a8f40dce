"""Pictures of a zoo: columns against a metric, a histogram of a column, who comes from whom, and a map of embeddings."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.types as kinds

from weightspace.errors import AnalysisError, CatalogError, UnknownNameError
from weightspace.family_tree import Link, family_tree
from weightspace.plotting import (
    BLUE,
    COLOUR_MAP,
    INK,
    QUIET,
    SEVERAL,
    canvas,
    far_axis,
    few_numbers,
    key,
    name_axis,
    note,
    room,
    short,
    style,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
MOST_CLASSES = len(SEVERAL)
_MOST_PANELS, _PANELS_BESIDE = 9, 3
_MOST_BARS = 30
_MAP = 6.4  # inches that a map is wide, its legend left out
_FAR = 100.0  # from this ratio of the largest to the smallest on, an axis is logarithmic


def principal_axes(vectors: npt.NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Project vectors on the two directions in which they vary most.

    The sign of each axis is such that its largest coordinate is positive, so that the same vectors give the same map.

    Args:
        vectors: (models, dimension), finite.

    Returns:
        Coordinates (models, 2), and the share of the variance that each axis holds.

    Raises:
        AnalysisError: fewer than two vectors, or all of them the same.
    """
    if len(vectors) < 2:
        raise AnalysisError(f"a map needs two embeddings or more, found {len(vectors)}; embed further models")
    centred = np.asarray(vectors, float) - np.mean(vectors, axis=0, dtype=float)
    # Of the smaller of the two second moments: a metanet gives short vectors to many models.
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    total = float((s**2).sum())
    if not total > 0:
        raise AnalysisError("all embeddings are the same, so that a map of them is one point; embed models that differ")
    points = np.zeros((len(vectors), 2))
    points[:, : min(2, len(s))] = (u * s)[:, :2]
    extremes = points[np.abs(points).argmax(0), [0, 1]]
    shares = np.zeros(2)
    shares[: min(2, len(s))] = (s**2 / total)[:2]
    return points * np.where(extremes < 0, -1.0, 1.0), shares


def embedding_map(
    vectors: npt.NDArray[np.floating],
    values: Sequence[float | str | bool | None] | None = None,
    *,
    label: str = "",
    title: str = "",
    marked: int | None = None,
) -> "Figure":
    """Draw the map.

    Args:
        vectors: (models, dimension).
        values: what colours each model: numbers by a scale, text by class, the most frequent classes by colours of their own; None is grey.
        label: what the values are.
        title: above the map.
        marked: the row of a model to ring.

    Raises:
        AnalysisError: see `principal_axes`.
    """
    points, shares = principal_axes(vectors)
    given = list(values) if values is not None else [None] * len(points)
    is_number = not any(isinstance(one, str) for one in given) and any(
        isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in given
    )
    with style():
        classes = [] if is_number else [None if one is None or one != one else str(one) for one in given]  # NaN is not itself
        named = sorted({one for one in classes if one is not None}, key=lambda one: (-classes.count(one), one))[:MOST_CLASSES]
        figure, [[axes]] = canvas(
            size=(_MAP if not named else _MAP + 1.2 * room([key(one, 24) for one in named] + [short(label, 24)]), 5.2)
        )
        size = float(np.clip(6000 / len(points), 3, 30))
        if is_number:
            numbers = np.array([np.nan if one is None else float(one) for one in given])
            known = np.isfinite(numbers)
            axes.scatter(*points[~known].T, s=size, color=QUIET, linewidths=0)
            drawn = axes.scatter(*points[known].T, s=size, c=numbers[known], cmap=COLOUR_MAP, linewidths=0)
            figure.colorbar(drawn, ax=axes, label=short(label))
        else:
            _scatter_classes(axes, points, classes, named, size)
            if named:
                figure.legend(loc="outside right upper", title=short(label, 24), title_fontsize=8, markerscale=max(1.0, (20 / size) ** 0.5))
        if marked is not None:
            axes.scatter(*points[[marked]].T, s=8 * size + 40, facecolors="none", edgecolors=SEVERAL[0], linewidths=1.5)
        axes.set(xlabel=f"first axis, {shares[0]:.0%} of the variance", ylabel=f"second axis, {shares[1]:.0%}")
        if title:
            note(axes, title, _MAP - 0.4)
    return figure


def values_by_model(models: pa.Table, column: str) -> dict[str, Any]:
    """What colours a map: the values of a column by the models' names.

    Args:
        models: as of `Zoo.models`.
        column: its name.

    Raises:
        UnknownNameError: no such column.
    """
    if column not in models.column_names:
        raise UnknownNameError.of("column", column, models.column_names)
    return dict(zip(models["name"].to_pylist(), models[column].to_pylist(), strict=True))


def _scatter_classes(axes: object, points: Floats, classes: Sequence[str | None], shown: Sequence[str], size: float) -> None:
    colours = dict(zip(shown, SEVERAL, strict=False))
    for one in (None, *shown):
        at = [row for row, name in enumerate(classes) if (name if name in colours else None) == one]
        if at:
            what = "other" if one is None else key(one, 24)
            axes.scatter(*points[at].T, s=size, color=QUIET if one is None else colours[one], linewidths=0, label=what)  # type: ignore[attr-defined]


def histogram(table: pa.Table, column: str, *, bins: int = 40) -> "Figure":
    """Count the values of a column: in bins, logarithmic ones where values range far; words by how often each comes.

    Args:
        table: any answer, as of `Zoo.models` or `Zoo.sql`.
        column: its name.
        bins: of numbers, at most.

    Raises:
        UnknownNameError: no such column.
        CatalogError: no row has a value.
    """
    values = _column(table, column)
    known = values.dropped()
    if not len(known):
        raise CatalogError(f"no row has a finite '{short(column)}' to count; ask for other rows or another column")
    others = 0
    with style():
        if values.is_number:
            figure, [[axes]] = canvas(size=(5.4, 3.2))
            _count(axes, known, bins)
            axes.set(xlabel=short(column), ylabel="rows")
        else:
            names, counts, others = _counted(known)
            figure, [[axes]] = canvas(size=(max(5.4, 3.0 + room(names)), 1.0 + 0.2 * len(names)))
            axes.barh(np.arange(len(names)), counts, color=BLUE, height=0.7)
            name_axis(axes.yaxis, names)
            axes.set(xlabel="rows", ylim=(len(names) - 0.4, -0.6))
            axes.xaxis.get_major_locator().set_params(integer=True)
        note(axes, _rows(len(known), len(table)) + (f"; {others:,} rarer values are not shown" if others else ""))
    return figure


def histograms(table: pa.Table, columns: Sequence[str], *, bins: int = 40) -> "Figure":
    """Count the values of several columns of numbers, a panel each; columns of words, or without a finite number, are left out.

    Args:
        table: any answer, as of `Zoo.models`.
        columns: their names, of which the first nine that hold numbers are drawn.
        bins: of each, at most.

    Raises:
        UnknownNameError: no such column.
        CatalogError: none of them holds a finite number.
    """
    found = {name: _column(table, name) for name in dict.fromkeys(columns)}
    known = {name: one.dropped() for name, one in found.items() if one.is_number and len(one.dropped())}
    if not known:
        raise CatalogError("no column that is shown holds a finite number to draw; ask for other rows, or name columns of numbers")
    names = list(known)[:_MOST_PANELS]
    beside = min(_PANELS_BESIDE, len(names))
    with style():
        figure, panels = canvas(-(-len(names) // beside), beside, size=(5.4, 3.2) if beside == 1 else (3.4, 2.5))
        for axes, name in zip(panels.flat, names, strict=False):
            _count(axes, known[name], bins)
            axes.set_xlabel(short(name, 36))
            note(axes, _rows(len(known[name]), len(table)), 4.0)
        for axes in panels.flat[len(names) :]:
            axes.set_axis_off()
        for axes in panels[:, 0]:
            axes.set_ylabel("rows")
    return figure


def against(table: pa.Table, metric: str, columns: Sequence[str] | None = None) -> "Figure":
    """Draw columns of a population against a metric, a panel each: numbers as points, words as a row of points for each.

    Args:
        table: any answer, as of `Zoo.models`.
        metric: the column that is upright in every panel; of numbers.
        columns: beside it; by default those that differ between rows, nine at most.

    Raises:
        UnknownNameError: no such column.
        CatalogError: the metric holds no number, or nothing is left to draw it against.
    """
    upright = _column(table, metric)
    if not upright.is_number or not len(upright.dropped()):
        raise CatalogError(f"'{short(metric)}' holds no finite number in these rows; draw against a metric, as in test_accuracy")
    chosen = _telling(table, metric) if columns is None else list(columns)
    if not chosen:
        raise CatalogError("no column differs between these rows; ask for more rows, or name columns")
    beside = min(_PANELS_BESIDE, len(chosen))
    with style():
        figure, panels = canvas(
            -(-len(chosen) // beside), beside, size=(5.4 if beside == 1 else 3.1, 3.2 if beside == 1 else 2.5), sharey=True
        )
        for axes, name in zip(panels.flat, chosen, strict=False):
            _panel(axes, _column(table, name), upright.numbers)
            axes.set_xlabel(short(name, 36))
        for axes in panels.flat[len(chosen) :]:
            axes.set_axis_off()
        for axes in panels[:, 0]:
            axes.set_ylabel(short(metric, 36))
    return figure


def lineage(edges: pa.Table) -> "Figure":
    """Draw who comes from whom.

    Args:
        edges: rows with the names of `parent` and `child`, the `kind`, and the `confidence` where there is one.

    Raises:
        UnknownNameError: such a column is missing.
    """
    for name in ("parent", "child", "kind"):
        _column(edges, name)
    return family_tree(
        [
            Link(row["parent"], row["child"], row["kind"] or "", 1.0 if (sure := row.get("confidence")) is None else sure)
            for row in edges.to_pylist()
        ]
    )


def _rows(known: int, every: int) -> str:
    """How many rows are counted, and how many are not."""
    return f"{known:,} row{'s' * (known != 1)}" + (f", {every - known:,} without a value" if known < every else "")


def _count(axes: Any, known: Floats, bins: int) -> None:
    """Draw how many of some numbers fall into each bin."""
    edges = _edges(known, bins)
    axes.hist(known, edges, color=BLUE, edgecolor="white", linewidth=0.4)
    if _is_far(known):
        far_axis(axes, "x")
    else:
        few_numbers(axes.xaxis, are_whole=bool(np.all(known == np.round(known))))
    if len(edges) == 2:  # all alike: one bar is not the whole width
        axes.set_xlim(edges[0] - 2, edges[1] + 2)
        axes.set_xticks([known[0]], [f"{known[0]:,.0f}" if known[0] == round(known[0]) else f"{known[0]:.6g}"])
    axes.yaxis.get_major_locator().set_params(integer=True)


class _Column:
    """The values of a column: numbers, with NaN where there is none, or words."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        kind = column.type
        self.is_number = kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_decimal(kind)
        given = column.to_pylist()
        if self.is_number:
            self.numbers = np.array([np.nan if one is None else float(one) for one in given], float)
            self.numbers[~np.isfinite(self.numbers)] = np.nan
        self.words = [] if self.is_number else [None if one is None else str(one) for one in given]

    def dropped(self) -> Any:
        """What there is."""
        return self.numbers[np.isfinite(self.numbers)] if self.is_number else [one for one in self.words if one is not None]


def _column(table: pa.Table, name: str) -> _Column:
    if name not in table.column_names:
        raise UnknownNameError.of("column", name, table.column_names)
    return _Column(table.column(table.column_names.index(name)))


def _telling(table: pa.Table, metric: str) -> list[str]:
    """Columns that differ between rows, and are not of another word in each."""
    found = []
    for name in dict.fromkeys(table.column_names):
        values = _column(table, name)
        known = values.dropped()
        different = len(set(known))
        if name != metric and different > 1 and not name.endswith("_id") and (values.is_number or different <= max(2, len(known) // 2)):
            found.append(name)
    return found[:_MOST_PANELS]


def _panel(axes: Any, values: _Column, upright: Floats) -> None:
    size = float(np.clip(4000 / max(1, len(upright)), 3, 22))
    if values.is_number:
        axes.scatter(values.numbers, upright, s=size, color=BLUE, alpha=0.7, linewidths=0)
        if _is_far(values.dropped()):
            far_axis(axes, "x")
        return
    names, _, _ = _counted(values.dropped())
    places = {name: at for at, name in enumerate(names[:12])}
    rows = [(places[word], value) for word, value in zip(values.words, upright, strict=True) if word in places and np.isfinite(value)]
    spread = np.random.default_rng(0).uniform(-0.22, 0.22, len(rows))  # so that points of a word stand beside each other; always alike
    axes.scatter([at for at, _ in rows] + spread, [value for _, value in rows], s=size, color=BLUE, alpha=0.7, linewidths=0)
    for at in places.values():
        own = [value for place, value in rows if place == at]
        if own:
            axes.hlines(float(np.median(own)), at - 0.3, at + 0.3, color=INK, linewidth=1.2)
    axes.set_xlim(-0.6, max(0.6, len(places) - 0.4))
    axes.set_xticks(
        list(places.values()),
        [short(name, 16) for name in places],
        rotation=0 if len(places) < 4 else 45,
        fontsize=7,
        ha="center" if len(places) < 4 else "right",
    )


def _counted(words: Sequence[str]) -> tuple[list[str], list[int], int]:
    """The most frequent words, how often each comes, and how many words are left out."""
    counts = Counter(words)
    order = sorted(counts, key=lambda one: (-counts[one], one))
    names = order[:_MOST_BARS]
    return names, [counts[one] for one in names], len(order) - len(names)


def _is_far(numbers: Floats) -> bool:
    return bool(len(numbers) and numbers.min() > 0 and numbers.max() / numbers.min() >= _FAR)


def _edges(numbers: Floats, most: int) -> Any:
    if _is_far(numbers):
        return np.geomspace(numbers.min(), numbers.max(), most + 1)
    low, high = float(numbers.min()), float(numbers.max())
    if not low < high:
        return np.array([low - 0.5 - abs(low) * 1e-9, high + 0.5 + abs(high) * 1e-9])
    whole = bool(np.all(numbers == np.round(numbers))) and high - low < most
    return np.arange(low - 0.5, high + 1) if whole else np.linspace(low, high, most + 1)
