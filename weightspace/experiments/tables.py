"""Tables of means and their 95 % intervals, as markdown and CSV."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Estimate:
    """A mean over independent repetitions, and half the width of its 95 % interval by Student's t (none for a single one)."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        """Estimate the mean of some values."""
        half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
        return cls(float(np.mean(values)) if values else np.nan, float(half))

    def shown(self, digits: int) -> str:
        """With so many digits after the point."""
        return "-" if np.isnan(self.mean) else f"{self.mean:.{digits}f}" + ("" if np.isnan(self.half) else f" ± {self.half:.{digits}f}")

    def __str__(self) -> str:
        return self.shown(3)


Cell = str | int | float | Estimate
Row = Mapping[str, Cell]


def estimates(repeated: Sequence[Mapping[str, float]]) -> dict[str, Estimate]:
    """Estimate each quantity from its values in all repetitions."""
    return {name: Estimate.of([one[name] for one in repeated]) for name in repeated[0]}


def with_interval(values: Sequence[float], digits: int = 3, *, scale: float = 1.0) -> str:
    """The mean of some values with half its interval, both multiplied; nothing of none."""
    found = Estimate.of(values)
    return Estimate(scale * found.mean, scale * found.half).shown(digits) if values else ""


def markdown(rows: Sequence[Row]) -> str:
    """Rows of the same columns as a markdown table."""
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_shown(cell) for cell in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def comma_separated(rows: Sequence[Row]) -> str:
    """The same as CSV: of an estimate two columns, the mean and `±`."""
    wide = []
    for row in rows:
        cells: dict[str, Cell] = {}
        for name, cell in row.items():
            cells |= {name: cell.mean, f"{name} ±": cell.half} if isinstance(cell, Estimate) else {name: cell}
        wide.append(cells)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(wide[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(wide)
    return text.getvalue()


def report(rows: Sequence[Row], title: str, out: Path | None) -> None:
    """Print a table; where a folder is given, write it there as TITLE.md and TITLE.csv."""
    print(f"\n{title}\n\n{markdown(rows)}", flush=True)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{title}.md").write_text(markdown(rows) + "\n")
        (out / f"{title}.csv").write_text(comma_separated(rows))


def _shown(cell: Cell) -> str:
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
