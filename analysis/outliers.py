"""Outliers in a family: models of one architecture of which some layers have statistics unlike those of the others.

It runs on what a catalog knows of tensors, without reading weights.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from weightspace.analysis.near_duplicates import Statistics
from weightspace.errors import AnalysisError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Of = Mapping[str, float | int | None]

THRESHOLD: Final = 8.0
"""Robust z-score from which a layer stands out; high, since a model is asked as many questions as it has layers and statistics."""
LEAST_MODELS: Final = 5
"""Models that a family needs, so that a median and a deviation mean something."""


def _log(key: str) -> Callable[[Of], float | None]:
    def read(of: Of) -> float | None:
        value = of.get(key)
        return math.log(value) if value is not None and value > 0 else None

    return read


def _largest(of: Of) -> float | None:
    low, high, std = of.get("minimum"), of.get("maximum"), of.get("std")
    if low is None or high is None or not std or max(-low, high) <= 0:
        return None
    return math.log(max(-low, high) / std)


def _shift(of: Of) -> float | None:
    mean, std = of.get("mean"), of.get("std")
    return mean / std if mean is not None and std else None


def _zeros(of: Of) -> float | None:
    """Not of short vectors, in which one dead unit is a large share."""
    zeros, count = of.get("num_zero"), of.get("numel")
    return zeros / count if zeros is not None and count and count >= 100 else None


@dataclass(frozen=True)
class _Statistic:
    """What is looked at: its value on the scale on which it is compared, the least spread there, and how it is shown."""

    read: Callable[[Of], float | None]
    floor: float
    show: Callable[[float], float]


_STATISTICS: dict[str, _Statistic] = {
    "norm": _Statistic(_log("l2"), math.log(1.05), math.exp),
    "kurtosis": _Statistic(_log("kurtosis"), math.log(1.1), math.exp),
    "largest element in deviations": _Statistic(_largest, math.log(1.1), math.exp),
    "mean in deviations": _Statistic(_shift, 0.02, float),
    "share of zeros": _Statistic(_zeros, 0.01, float),
}


@dataclass(frozen=True)
class Deviation:
    """One statistic of one layer that stands out.

    Attributes:
        layer: name of the tensor.
        statistic: which.
        value: of this model.
        usual: median of the family.
        z: distance from the median in robust deviations, on the scale of comparison (logarithms for norms and the like).
    """

    layer: str
    statistic: str
    value: float
    usual: float
    z: float

    @property
    def text(self) -> str:
        """In words."""
        return f"{self.statistic} of {self.layer} is {self.value:.3g}, usually {self.usual:.3g} (z = {self.z:+.0f})"


@dataclass(frozen=True)
class Outlier:
    """A model with the layers that stand out, those furthest off first."""

    model: str
    deviations: tuple[Deviation, ...]

    @property
    def score(self) -> float:
        """The largest robust z-score."""
        return abs(self.deviations[0].z)


@dataclass(frozen=True)
class Outliers:
    """Outliers of one family.

    Attributes:
        models: of the family.
        layers: of the architecture.
        scores: largest robust z-score over the statistics (models, layers); NaN where nothing is known.
        found: models that stand out, the furthest off first.
    """

    models: tuple[str, ...]
    layers: tuple[str, ...]
    scores: npt.NDArray[np.float64]
    found: tuple[Outlier, ...]

    @property
    def table(self) -> list[dict[str, Any]]:
        """One row a model that stands out."""
        return [
            {
                "model": one.model,
                "score": one.score,
                "layers": len({deviation.layer for deviation in one.deviations}),
                "of_layers": len(self.layers),
                "reason": one.deviations[0].text,
                "reasons": [deviation.text for deviation in one.deviations],
            }
            for one in self.found
        ]

    def plot(self) -> "Figure":
        """Draw the scores of the forty models that are furthest off (rows) by layer (columns)."""
        from weightspace.analysis.plotting import heat_map

        order = [int(at) for at in np.argsort(-np.nan_to_num(self.scores).max(1))[:40]]
        title = f"{len(self.found)} of {len(self.models)} models {'stands' if len(self.found) == 1 else 'stand'} out"
        names = [self.models[at] for at in order]
        return heat_map(self.scores[order], names, self.layers, "robust z-score", limits=(0.0, 2 * THRESHOLD), title=title)


def outliers(statistics: Statistics, *, threshold: float = THRESHOLD) -> list[Outliers]:
    """Find models whose layers stand out in the family that they are in: the models of one architecture.

    Norm, kurtosis, largest element, mean and share of zeros of each layer are compared with the family's medians, in units of 1.4826 times the
    median absolute deviation or of a least spread. Iglewicz and Hoaglin, How to detect and handle outliers (1993), propose 3.5 for one number;
    a model has hundreds, hence the higher threshold.

    Args:
        statistics: by model and tensor, with `numel`, `num_zero`, `mean`, `std`, `l2`, `minimum`, `maximum`, `kurtosis` as far as known.
        threshold: robust z-score from which a layer stands out.

    Returns:
        One result for each architecture of which there are enough models, the largest family first.

    Raises:
        AnalysisError: no architecture has enough models.
    """
    families = _families(statistics)
    large = [names for names in families if len(names) >= LEAST_MODELS]
    if not large:
        most = max((len(names) for names in families), default=0)
        raise AnalysisError(
            f"outliers need {LEAST_MODELS} models of one architecture or more, found at most {most}; ask of more models, or of a larger catalog"
        )
    return [_outliers(names, statistics, threshold) for names in sorted(large, key=len, reverse=True)]


def _families(statistics: Statistics) -> list[list[str]]:
    groups: dict[tuple[tuple[str, float | int | None], ...], list[str]] = {}
    for name, tensors in statistics.items():
        groups.setdefault(tuple(sorted((tensor, of.get("numel")) for tensor, of in tensors.items())), []).append(name)
    return list(groups.values())


def _outliers(models: Sequence[str], statistics: Statistics, threshold: float) -> Outliers:
    layers = tuple(statistics[models[0]])
    scores = np.full((len(models), len(layers)), np.nan)
    found: dict[str, list[Deviation]] = {}
    for column, layer in enumerate(layers):
        for name, statistic in _STATISTICS.items():
            values = np.array([_value(statistic, statistics[model][layer]) for model in models])
            z, usual = _robust(values, statistic.floor)
            scores[:, column] = np.fmax(scores[:, column], np.abs(z))
            for at in np.flatnonzero(np.abs(z) > threshold).tolist():
                value = statistic.show(float(values[at]))
                found.setdefault(models[at], []).append(Deviation(layer, name, value, statistic.show(usual), float(z[at])))
    ranked = [Outlier(model, tuple(sorted(all_of, key=lambda one: -abs(one.z)))) for model, all_of in found.items()]
    return Outliers(tuple(models), layers, scores, tuple(sorted(ranked, key=lambda one: -one.score)))


def _value(statistic: _Statistic, of: Of) -> float:
    found = statistic.read(of)
    return math.nan if found is None else found


def _robust(values: npt.NDArray[np.float64], floor: float) -> tuple[npt.NDArray[np.float64], float]:
    """Robust z-scores and the median; NaN where a value, or too many of them, are unknown."""
    known = values[np.isfinite(values)]
    if len(known) < LEAST_MODELS:
        return np.full(len(values), np.nan), math.nan
    middle = float(np.median(known))
    spread = max(floor, 1.4826 * float(np.median(np.abs(known - middle))))
    return (values - middle) / spread, middle


def rows(families: Sequence[Outliers]) -> Iterator[dict[str, Any]]:
    """The rows of several families, one after another."""
    for family in families:
        yield from family.table
