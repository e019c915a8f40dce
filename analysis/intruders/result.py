"""Intruder dimensions as they were found: counts, tables and pictures, layer by layer and in all."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from weightspace.analysis.intruders.layer import LayerIntruders, p_value
from weightspace.errors import UnknownNameError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Intruders:
    """The intruder dimensions of a tuned model.

    Attributes:
        layers: what was found in each layer.
        skipped: layers that were not looked at, and why.
        k: how many vectors of each layer were looked at.
        epsilon: the similarity under which a vector is an intruder.
        side: whose vectors were counted.
    """

    layers: tuple[LayerIntruders, ...]
    skipped: Mapping[str, str]
    k: int
    epsilon: float
    side: str

    @property
    def count(self) -> int:
        """Intruders by the paper's definition, over all layers."""
        return sum(one.count for one in self.layers)

    @property
    def guarded(self) -> int:
        """Those that no degenerate band of the base explains."""
        return sum(one.guarded for one in self.layers)

    @property
    def left(self) -> int:
        """Intruders by left vectors, as in the paper."""
        return sum(one.left for one in self.layers)

    @property
    def right(self) -> int:
        """Intruders by right vectors."""
        return sum(one.right for one in self.layers)

    @property
    def null(self) -> tuple[int, ...]:
        """How many intruders each random update of the whole model gave; empty without a null."""
        return tuple(sum(counts) for counts in zip(*(one.null for one in self.layers if one.null), strict=True))

    @property
    def p(self) -> float | None:
        """How often a random update of the whole model gives as many intruders (add-one rule); None without a null."""
        return p_value(sum(one >= self.count for one in self.null), len(self.null))

    @property
    def table(self) -> list[dict[str, float | int | str | None]]:
        """One row a layer."""
        return [one.row(self.side) for one in self.layers]

    @property
    def vectors(self) -> list[dict[str, float | int | str | None]]:
        """One row a singular vector."""
        return [asdict(vector) for one in self.layers for vector in one.vectors]

    @property
    def values(self) -> dict[str, float]:
        """The counts as the catalog keeps them."""
        found = {"count": self.count, "guarded": self.guarded, "left": self.left, "right": self.right, "layers": len(self.layers)}
        return {name: float(value) for name, value in found.items()}

    def layer(self, name: str) -> LayerIntruders:
        """What was found in one layer.

        Raises:
            UnknownNameError: there is none of this name.
        """
        for one in self.layers:
            if one.name == name:
                return one
        raise UnknownNameError.of("layer", name, [one.name for one in self.layers])

    def plot(self, layer: str | None = None) -> "Figure":
        """Draw one layer's similarities as a heat map, or the counts of all layers; of a single layer the heat map."""
        from weightspace.analysis.intruders.plot import counts_drawn, similarity_drawn

        if layer is None and len(self.layers) != 1:
            return counts_drawn(self)
        return similarity_drawn(self, self.layers[0] if layer is None else self.layer(layer))

    def _repr_html_(self) -> str:
        """Counts of every layer for notebooks."""
        from weightspace import html

        columns = ["layer", "count", "guarded", "left", "right", "vectors"]
        table = self.table
        shown = [name for name in columns if table and name in table[0]] or None
        return html.page(repr(self)[1:-1], html.rows(table, columns=shown))

    def __repr__(self) -> str:
        skipped = f", {len(self.skipped)} skipped" if self.skipped else ""
        by_chance = f", p {self.p:.3g}" if self.p is not None else ""
        return f"<Intruders: {self.count} in {len(self.layers)} layers ({self.guarded} guarded){by_chance}{skipped}>"
