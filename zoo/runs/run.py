"""Runs: one training as its tracker or its folder tells it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from weightspace.errors import one_line
from weightspace.zoo.metrics import Metric, flat, number, whole

Value = str | int | float | bool

MAX_VALUES = 5000  # hyperparameters or tags of a run
MAX_TEXT = 2000  # characters of one
_SEED_KEYS = ("seed", "random_seed", "random_state", "seed_everything", "rng_seed", "manual_seed", "global_seed")
_NUMBER = re.compile(r"[+-]?(\d+|\d+\.\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        key: stable and unique: source and native id (`mlflow:<run id>`, `wandb:<project>/<run id>`), or path (`folder:<path>`, `csv:<path>#<run>`).
        name: what people call it.
        source: the reader it came from: folder, mlflow, wandb, trackio, csv, jsonl.
        seed: random seed, when something says it.
        hyperparameters: flat, nested keys joined with dots.
        tags: as the tracker says.
        status: `finished`, `failed`, `running`, `killed`, or the tracker's own word; None when unknown.
        started, ended: UTC.
        metrics: the points logged, thinned evenly where there are more than `metrics.History` keeps.
        artifacts: paths that the tracker names as the run's outputs: files, or folders ending in '/'.
        notes: what was left out or could not be read, a line each.
        source_item: the datum a network was fitted to (the image of an implicit network).
        split: train, val or test, for zoos that metanets learn from.
    """

    key: str
    name: str
    source: str
    seed: int | None = None
    hyperparameters: Mapping[str, Value] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    status: str | None = None
    started: datetime | None = None
    ended: datetime | None = None
    metrics: tuple[Metric, ...] = ()
    artifacts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    source_item: str | None = None
    split: str | None = None


def plain_values(tree: Mapping[str, Any]) -> dict[str, Value]:
    """Flatten nested settings to text, numbers and booleans; short lists become text, text that is a number becomes one.

    Example:
        >>> plain_values({"optimizer": {"lr": "1e-3", "betas": [0.9, 0.99]}, "seed": "7", "none": None})
        {'seed': 7, 'optimizer.lr': 0.001, 'optimizer.betas': '[0.9, 0.99]'}
    """
    values: dict[str, Value] = {}
    for key, value in flat(tree):
        if len(values) >= MAX_VALUES:
            break
        read = plain_value(value)
        if read is not None:
            values[one_line(key, 200)] = read
    return values


def plain_value(value: object) -> Value | None:
    """Turn one setting into text, a number or a boolean."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        read = number(value)
        return None if read is None else value if abs(read) < 1 << 62 else read
    if isinstance(value, str):
        if value in ("True", "true", "False", "false"):
            return value in ("True", "true")
        if len(value) < 40 and (found := _NUMBER.fullmatch(value)):
            is_whole = value.lstrip("+-").isdigit() and not (len(value.lstrip("+-")) > 1 and value.lstrip("+-")[0] == "0")
            return (
                plain_value(int(value)) if is_whole else number(float(value)) if not found.group(1).isdigit() or found.group(2) else value
            )
        return one_line(value, MAX_TEXT)
    if isinstance(value, list) and len(value) <= 64 and all(isinstance(one, str | int | float | bool) for one in value):
        return one_line(str(value), MAX_TEXT)
    return None


def seed_of(settings: Mapping[str, Value]) -> int | None:
    """Find the seed among flat hyperparameters: a key such as `seed`, at the top before one further down."""
    nested = {key.rpartition(".")[2].lower(): value for key, value in reversed(list(settings.items()))}
    top = {key.lower(): value for key, value in settings.items() if "." not in key}
    values = (level.get(key) for level in (top, nested) for key in _SEED_KEYS)
    return next((seed for value in values if not isinstance(value, bool) and (seed := whole(value)) is not None), None)


def utc(seconds: object) -> datetime | None:
    """Turn seconds since 1970 into a UTC time; None for anything else or a time outside the calendar."""
    read = number(seconds)
    if read is None or read <= 0:
        return None
    try:
        return datetime.fromtimestamp(read, UTC)
    except (ValueError, OverflowError, OSError):
        return None


def utc_text(text: object) -> datetime | None:
    """Parse an ISO time; one without a zone is taken for UTC."""
    if not isinstance(text, str):
        return None
    try:
        read = datetime.fromisoformat(text)
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
