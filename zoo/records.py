"""What ingest hands to the catalog: one record a checkpoint, or a refusal."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from weightspace.zoo.metrics import Metric
from weightspace.zoo.runs.run import Run

TensorRow = tuple[str, str, list[int], str | None, bytes, int, int, int | None, int | None, int | None, *tuple[float | None, ...]]
"""name, dtype, shape, alias_of, hash, numel, nbytes, num_zero, num_nan, num_inf, then the moments of `Statistics` in order."""


BESIDE = "beside it"  # source of metrics that were read from files beside a checkpoint


@dataclass(frozen=True)
class Place:
    """Where a checkpoint file or folder lies, and how it looked when it was read."""

    path: str
    format: str | None
    num_files: int
    size: int
    modified: datetime
    stamp: int
    sidecar_stamp: int = 0
    sha256: bytes | None = None


@dataclass(frozen=True)
class Description:
    """What lies beside a checkpoint: everything the catalog keeps that does not come from its weights; metrics with their source."""

    metadata: Mapping[str, Any] = field(default_factory=dict)
    licence: str | None = None
    base_model: str | None = None
    datasets: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    library: str | None = None
    task: str | None = None
    family: str | None = None
    run: Run | None = None
    step: int | None = None
    metrics: tuple[tuple[Metric, str], ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelRecord:
    """A checkpoint that was read and measured."""

    place: Place
    name: str
    id: bytes
    weights_id: bytes
    fingerprint: bytes
    kind: str
    num_params: int
    num_bytes: int
    tensors: tuple[TensorRow, ...]
    description: Description
    recipe: Mapping[str, Any] | None = None
    parents: tuple[str, ...] = ()
    is_read: bool = True

    @property
    def is_finite(self) -> bool | None:
        """No NaN and no infinity in any tensor; None where its weights were not read."""
        return not any(row[8] or row[9] for row in self.tensors) if self.is_read else None


@dataclass(frozen=True)
class Redescription:
    """A checkpoint whose weights are known, but what lies beside it has changed."""

    place: Place
    description: Description


@dataclass(frozen=True)
class Refusal:
    """A file that was not catalogued, and why."""

    place: Place
    reason: str
    detail: str
    advice: str


Record = ModelRecord | Redescription | Refusal
