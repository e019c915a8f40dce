"""How alike the layers of two networks are: one similarity for each pair of layers, as a table with the layers' names."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from weightspace.analysis.functional.recording import chosen, flat, recorded, side_by_side
from weightspace.analysis.moments import Moments, Sums
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.symmetry import StateDict
from weightspace.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEPARATOR = "|"

KINDS: Mapping[str, Callable[[Moments], float]] = {
    "cka": lambda moments: moments.cka(),
    "cka_debiased": lambda moments: moments.cka(debiased=True),
    "cca": lambda moments: moments.cca("mean"),
    "cca_squared": lambda moments: moments.cca("squared"),
    "svcca": lambda moments: moments.cca("svcca"),
    "pwcca": lambda moments: moments.cca("pwcca"),
    "procrustes": lambda moments: moments.procrustes(),
    "procrustes_angular": lambda moments: moments.procrustes(angular=True),
    "lr": lambda moments: moments.explained(),
    "orthogonal_error": lambda moments: moments.orthogonal_error(),
    "l2": lambda moments: moments.l2(),
    "correlation": lambda moments: moments.correlation(),
}
DIRECTED = frozenset(["pwcca", "lr", "orthogonal_error", "l2"])
"""Those that say something else of (b, a): `lr` and the errors are those of b from a."""

UNIT = frozenset(["cka", "cka_debiased", "cca", "cca_squared", "svcca", "pwcca", "lr", "agreement"])
"""Those that are drawn from 0 to 1."""


@dataclass(frozen=True)
class Comparison:
    """Similarities (or distances) of the layers of two networks.

    Attributes:
        kind: which.
        rows: layers of the first network.
        columns: layers of the second.
        table: a row for each layer of the first; NaN where it is not defined.
        samples: on how many samples each rests.
        undefined: for entries that are NaN, by key as `values` has them, why.
    """

    kind: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    table: tuple[tuple[float, ...], ...]
    samples: int
    undefined: Mapping[str, str] = field(default_factory=dict)

    @property
    def diagonal(self) -> dict[str, float]:
        """Of each layer with the one of the same name."""
        places = {name: at for at, name in enumerate(self.columns)}
        return {name: self.table[at][places[name]] for at, name in enumerate(self.rows) if name in places}

    def values(self) -> dict[str, float]:
        """By key "layer of the first|layer of the second", with the mean over layers of one name under "mean"."""
        made = {
            key_of(a, b): value for a, row in zip(self.rows, self.table, strict=True) for b, value in zip(self.columns, row, strict=True)
        }
        finite = [value for value in self.diagonal.values() if math.isfinite(value)]
        return made | ({"mean": sum(finite) / len(finite)} if finite else {})

    def plot(self) -> "Figure":
        """Draw the table as a heat map."""
        from weightspace.analysis.plotting import heat_map

        title = f"a down, b across; n = {self.samples:,}"
        return heat_map(self.table, self.rows, self.columns, self.kind.replace("_", " "), limits=self.limits, title=title)

    @property
    def limits(self) -> tuple[float, float] | None:
        """Between which values colours go; None for those of the table."""
        return (0.0, 1.0) if self.kind in UNIT else None


def key_of(a: str, b: str) -> str:
    """The key of a pair of layers."""
    return f"{a}{SEPARATOR}{b}"


def compare(
    task: Task,
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    kind: str = "cka",
    *,
    layers: Sequence[str] | None = None,
    positions: str = "pooled",
    same: bool = False,
    other: Task | None = None,
) -> Comparison:
    """Measure how alike each layer of one network is to each of another on the same data; see `weightspace.analysis.similarity`.

    Sums are gathered batch by batch: memory grows with the square of the widths, not with the data.

    Args:
        task: the module of the first network, and the data.
        a: the first network.
        b: the second.
        kind: of similarity, or distance: one of `KINDS`.
        layers: names of submodules; by default every linear and convolutional layer, before its activation.
        positions: of feature maps and sequences: `pooled`, `units` or `samples`; by the last, layers with other places than each other are NaN.
        same: only layers of one name with each other; others are NaN.
        other: the module of the second network where it is another one, with the same batches.

    Raises:
        UnknownNameError: no such kind, or no such submodule.
        AnalysisError: the two see different examples, or activations are not finite.
    """
    if kind not in KINDS:
        raise UnknownNameError.of("kind of comparison", kind, KINDS)
    right = other or task
    rows, columns = chosen(task, a, layers), chosen(right, b, layers)
    between = {(x, y): Sums() for x in rows for y in columns if not same or x == y}
    own = {name: Sums() for name in rows}, {name: Sums() for name in columns}
    batches = (recorded(*network, positions=positions) for network in zip(side_by_side(task, right), (a, b), (rows, columns), strict=True))
    for pair in itertools.zip_longest(*batches):
        if None in pair:
            raise AnalysisError("expected two tasks with the same batches, found more in one; give both the same data")
        for sums, batch in zip(own, pair, strict=True):
            for name, values in batch.items():
                sums[name].add(flat(values), flat(values))
        for (x, y), sum_between in between.items():
            one, two = pair[0][x], pair[1][y]
            if one.shape[1] == two.shape[1]:  # with other places there are no common samples
                sum_between.add(flat(one), flat(two))

    undefined: dict[str, str] = {}

    def similarity(x: str, y: str) -> float:
        if (x, y) not in between:
            return math.nan
        moments = Moments(own[0][x], own[1][y], between[x, y])
        value = KINDS[kind](moments) if moments.count else math.nan
        if math.isnan(value):
            undefined[key_of(x, y)] = moments.undefined
        return value

    table = tuple(tuple(similarity(x, y) for y in columns) for x in rows)
    return Comparison(kind, tuple(rows), tuple(columns), table, max(sums.count for sums in own[0].values()), undefined)


__all__ = ["DIRECTED", "KINDS", "UNIT", "Comparison", "compare", "key_of"]
