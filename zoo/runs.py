"""Runs: one training as its tracker or its folder tells it, and which checkpoints it left."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from weightspace.zoo.metrics import Metric

Value = str | int | float | bool


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        key: stable and unique: source and native id (`mlflow:<uri>#<run id>`), or `folder:<path>`.
        name: what people call it.
        source: the reader it came from: folder, mlflow, wandb, trackio, csv, jsonl.
        seed: random seed, when something says it.
        hyperparameters: flat, nested keys joined with dots.
        tags: as the tracker says.
        status: `finished`, `failed`, `running`, `killed`, or the tracker's own word; None when unknown.
        started, ended: UTC.
        metrics: the points logged, at most `readers.MAX_POINTS` a metric.
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


@dataclass(frozen=True)
class File:
    """A catalogued checkpoint, as far as matching needs it.

    Attributes:
        path: absolute.
        modified: UTC.
        step: step or epoch, when its name says so.
        run: key of the folder run it belongs to, when its place says so.
    """

    path: Path
    modified: datetime
    step: int | None = None
    run: str | None = None


@dataclass(frozen=True)
class Match:
    """A checkpoint that belongs to an imported run.

    Attributes:
        run: the run's key.
        file: the checkpoint.
        step: the file's step.
        evidence: why, in one phrase.
    """

    run: str
    file: File
    step: int | None
    evidence: str
