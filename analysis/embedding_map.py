"""A map of embeddings: their two principal axes, each point coloured by what is known of its model."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from weightspace.analysis.plotting import QUIET, SEVERAL, canvas, note, short, style
from weightspace.errors import AnalysisError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]
MOST_CLASSES = len(SEVERAL)


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
    is_number = any(isinstance(one, int | float) and not isinstance(one, bool) for one in given) and not any(
        isinstance(one, str) for one in given
    )
    with style():
        figure, [[axes]] = canvas(size=(6.4, 5.2))
        size = float(np.clip(6000 / len(points), 3, 30))
        if is_number:
            numbers = np.array([np.nan if one is None else float(one) for one in given])
            known = np.isfinite(numbers)
            axes.scatter(*points[~known].T, s=size, color=QUIET, linewidths=0)
            drawn = axes.scatter(*points[known].T, s=size, c=numbers[known], cmap="cividis", linewidths=0)
            figure.colorbar(drawn, ax=axes, label=short(label))
        else:
            classes = [None if one is None else str(one) for one in given]
            named = sorted({one for one in classes if one is not None}, key=lambda one: (-classes.count(one), one))
            _scatter_classes(axes, points, classes, named[:MOST_CLASSES], size)
            if named:
                axes.legend(fontsize=7, title=short(label), frameon=False)
        if marked is not None:
            axes.scatter(*points[[marked]].T, s=8 * size + 40, facecolors="none", edgecolors=SEVERAL[0], linewidths=1.5)
        axes.set(xlabel=f"first axis, {shares[0]:.0%} of the variance", ylabel=f"second axis, {shares[1]:.0%}")
        if title:
            note(axes, title)
    return figure


def _scatter_classes(axes: object, points: Floats, classes: Sequence[str | None], shown: Sequence[str], size: float) -> None:
    colours = dict(zip(shown, SEVERAL, strict=False))
    for one in (None, *shown):
        at = [row for row, name in enumerate(classes) if (name if name in colours else None) == one]
        if at:
            what = "other" if one is None else short(one)
            axes.scatter(*points[at].T, s=size, color=QUIET if one is None else colours[one], linewidths=0, label=what)  # type: ignore[attr-defined]
