"""A metric: one number measured about a checkpoint or along a run, and how names and numbers in foreign files become one."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, SupportsFloat

from weightspace.errors import one_line

MAX_NAME = 200
MAX_DEPTH = 16
MAX_POINTS = 10_000  # kept of one metric of a run
MAX_TOTAL = 500_000  # kept of all metrics of a run together
MAX_SERIES = 5_000  # metrics of a run
COUNTERS = ("step", "global_step", "_step", "iteration", "epoch")  # keys that say when, not how good; the finest first

_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
    "eval": "eval",
    "evaluation": "eval",
}


@dataclass(frozen=True, slots=True)
class Metric:
    """One finite number.

    Attributes:
        name: what was measured, without its split: `accuracy`, `loss`.
        value: the number.
        split: `train`, `val`, `test` or `eval`, or whatever a model card calls its split; None when nothing says so.
        step: the step, or the epoch where the source counts only epochs.
        time: when it was logged, UTC.
    """

    name: str
    value: float
    split: str | None = None
    step: int | None = None
    time: datetime | None = None


def split_name(key: str) -> tuple[str, str | None]:
    """Take the split off the front of a metric's name.

    The part before the first `_`, `/`, `.` or `-` is the split when it is a word for one; the rest is the name. A name
    that is nothing but a word for a split stays a name.

    Example:
        >>> split_name("test_accuracy"), split_name("validation/loss"), split_name("testament")
        (('accuracy', 'test'), ('loss', 'val'), ('testament', None))
    """
    at = next((i for i, letter in enumerate(key) if letter in "_/.-"), -1)
    split = _SPLITS.get(key[:at].lower()) if at > 0 else None
    rest = key[at + 1 :]
    return (rest, split) if split and rest else (key, None)


def number(value: object) -> float | None:
    """Read a finite number; booleans, text, NaN and infinities are none."""
    if isinstance(value, bool) or not isinstance(value, int | float | SupportsFloat) or isinstance(value, str):
        return None
    try:
        read = float(value)
    except (OverflowError, TypeError, ValueError, RuntimeError):  # too large, or an array of several numbers
        return None
    return read if math.isfinite(read) else None


def number_in_text(value: object) -> float | None:
    """Read a finite number that may be written as text, as in a CSV file."""
    if not isinstance(value, str):
        return number(value)
    try:
        return number(float(value)) if len(value) < 64 else None
    except ValueError:
        return None


def whole(value: object) -> int | None:
    """Read a count that fits the catalog's 64 bits, also when it was written as text or as `3.0`."""
    read = number_in_text(value)
    return int(read) if read is not None and read.is_integer() and abs(read) < 1 << 62 else None


def flat(tree: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings with their keys joined by dots, to a depth of `MAX_DEPTH`; lists are leaves."""
    pending: list[tuple[str, Mapping[Any, Any], int]] = [("", tree, 0)]
    while pending:
        prefix, branch, depth = pending.pop(0)
        for key, value in branch.items():
            name = f"{prefix}{key}"[:MAX_NAME]
            if isinstance(value, Mapping):
                if depth < MAX_DEPTH:
                    pending.append((f"{name}.", value, depth + 1))
            else:
                yield name, value


def step_of(row: Mapping[str, Any]) -> int | None:
    """Read the step of a row of numbers, or its epoch where it has no step."""
    return next((step for key in COUNTERS if (step := whole(row.get(key))) is not None), None)


def metrics_of(row: Mapping[str, Any], step: int | None = None) -> tuple[Metric, ...]:
    """Make metrics of every number in a nested mapping; its own `step` or `epoch` says when, unless the caller knows better.

    Example:
        >>> metrics_of({"test": {"accuracy": 0.5}, "step": 3})
        (Metric(name='accuracy', value=0.5, split='test', step=3, time=None),)
    """
    when = step if step is not None else step_of(row)
    return tuple(_metrics(flat(row), when))


def _metrics(leaves: Iterable[tuple[str, Any]], step: int | None) -> Iterator[Metric]:
    for key, value in leaves:
        read = number(value)
        if read is not None and key not in COUNTERS:
            name, split = split_name(one_line(key, MAX_NAME))
            yield Metric(name, read, split, step)


class History:
    """The points of a run's metrics as they come in, evenly thinned once they are too many; first and last points stay.

    At most `MAX_POINTS` of a metric, `MAX_SERIES` metrics and `MAX_TOTAL` points are kept, whatever is fed in.
    """

    def __init__(self) -> None:
        self._series: dict[tuple[str, str | None], _Series] = {}
        self._kept = self._not_finite = self._left_out = 0

    def add(self, key: str, value: object, step: int | None = None, time: datetime | None = None) -> None:
        """Take one value under its full name; what is no number is passed over, and counted when it is NaN or infinite."""
        read = number(value)
        if read is None:
            self._not_finite += isinstance(value, float) or value in ("NaN", "Infinity", "-Infinity")
            return
        name, split = split_name(one_line(key, MAX_NAME))
        series = self._series.get((name, split))
        if series is None:
            if len(self._series) >= MAX_SERIES:
                self._left_out += 1
                return
            series = self._series[name, split] = _Series()
        self._kept += series.add(Metric(name, read, split, step, time), MAX_POINTS)
        while self._kept > MAX_TOTAL:
            self._kept = sum(one.halve() for one in self._series.values())

    def metrics(self) -> tuple[Metric, ...]:
        """The points kept, metric by metric in order of first appearance."""
        return tuple(point for series in self._series.values() for point in series.all())

    def notes(self) -> tuple[str, ...]:
        """What was not kept, a line each."""
        thinned = sum(series.stride > 1 for series in self._series.values())
        said = [
            (self._not_finite, f"{self._not_finite} values that are NaN or infinite were left out"),
            (thinned, f"{thinned} metrics have more points than are kept and were thinned evenly"),
            (self._left_out, f"{self._left_out} values of metrics beyond the first {MAX_SERIES} were left out"),
        ]
        return tuple(line for count, line in said if count)


class _Series:
    """Points of one metric: every `stride`-th, and the last."""

    def __init__(self) -> None:
        self.points: list[Metric] = []
        self.stride = 1
        self._count = 0
        self._last: Metric | None = None

    def add(self, point: Metric, limit: int) -> int:
        """Take a point and return by how many the kept ones grew."""
        before = len(self.points)
        self._last = point
        if self._count % self.stride == 0:
            self.points.append(point)
        self._count += 1
        if len(self.points) > limit:
            self.halve()
        return len(self.points) - before

    def halve(self) -> int:
        """Keep every second point and return how many are left."""
        if len(self.points) > 1:
            self.points = self.points[::2]
            self.stride *= 2
        return len(self.points)

    def all(self) -> list[Metric]:
        """The kept points, the last one among them."""
        return self.points if self._last is None or self.points[-1] is self._last else [*self.points, self._last]
