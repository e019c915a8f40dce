"""The work of one ingest worker: open checkpoints, measure their tensors, hand back plain values."""

import contextlib
import gc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightspace import identity, naming
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.errors import DAMAGE, FormatError, guarded, one_line
from weightspace.formats import formats, sniff
from weightspace.remote.file import RemoteFile
from weightspace.storage import FileSpan
from weightspace.zoo.discover import is_named_like_weights
from weightspace.zoo.measure import Measure, measure_many
from weightspace.zoo.records import TensorRow

PART_BYTES = 128 << 20  # a checkpoint larger than this is measured in parts, by several workers at once
ARRAY_FORMATS = ("npy", "npz")


@dataclass(frozen=True)
class Task:
    """Checkpoints to read whole (`names` None), or one checkpoint of which only some tensors are to be measured.

    A format is None where nobody has looked into the file yet.
    """

    paths: tuple[Path, ...]
    formats: tuple[str | None, ...]
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Read:
    """A checkpoint that was read: what the catalog needs of it, without the weights."""

    format: str
    kind: str
    metadata: dict[str, Any]
    id: bytes
    weights_id: bytes
    fingerprint: bytes
    num_params: int
    num_bytes: int
    rows: tuple[TensorRow, ...]
    recipe: Mapping[str, Any] | None = None
    parents: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """Rows of some of a checkpoint's tensors, by name."""

    rows: dict[str, TensorRow]


@dataclass(frozen=True)
class Refused:
    """A checkpoint that could not be read."""

    reason: str
    detail: str
    advice: str


@dataclass(frozen=True)
class Passed:
    """A file that is in order but holds no weights."""


Outcome = Read | Part | Refused | Passed


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Pause the cyclic garbage collector: many rows without cycles are alive at once, and it would walk them again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def work(task: Task) -> list[Outcome]:
    """Do one task; what goes wrong with a file becomes its outcome, so that the others are not lost."""
    with uncollected():
        return _worked(task)


def _worked(task: Task) -> list[Outcome]:
    opened = [_opened(path, format) for path, format in zip(task.paths, task.formats, strict=True)]
    whole = [one for one in opened if isinstance(one, Checkpoint)]
    names = [tuple(one.info) if task.names is None else task.names for one in whole]
    try:
        # Together, because small tensors of many files are measured at once.
        rows = iter(measured(list(zip(whole, names, strict=True))))
        return [_read(one, next(rows), task.names) if isinstance(one, Checkpoint) else one for one in opened]
    except DAMAGE:
        return [_alone(path, one, task.names) if isinstance(one, Checkpoint) else one for path, one in zip(task.paths, opened, strict=True)]


def _opened(path: Path, format: str | None) -> Checkpoint | Refused | Passed:
    try:
        return open_as(path, format) or Passed()
    except FormatError as error:
        return Refused(error.reason, error.detail, error.advice)
    except Exception as error:  # a fault of a reader, ours or a plugin's, costs its file and no other
        detail = one_line(f"{path}: its reader failed ({type(error).__name__}: {error})")
        return Refused("crashed", detail, "report this with the file, if you may share it")


def _alone(path: Path, checkpoint: Checkpoint, names: tuple[str, ...] | None) -> Outcome:
    """Measure one checkpoint by itself, to find out whether it is the one that cannot be read."""
    try:
        [rows] = guarded(lambda _: measured([(checkpoint, names or tuple(checkpoint.info))]), path)
    except FormatError as error:
        return Refused(error.reason, error.detail, error.advice)
    return _read(checkpoint, rows, names)


def _read(checkpoint: Checkpoint, rows: list[TensorRow], names: tuple[str, ...] | None) -> Read | Part:
    return finished(checkpoint, rows) if names is None else Part(dict(zip(names, rows, strict=True)))


def open_as(path: Path, format: str | None) -> Checkpoint | None:
    """Open what discovery found; None for a file that is no checkpoint and does not claim to be one.

    Raises:
        FormatError: it is damaged, hostile, holds no tensors, or is named like weights and is of no known format.
    """
    if format is None:
        fit = sniff(path)
        if fit is None and is_named_like_weights(path):
            advice = "if it is a checkpoint, it is damaged or of a format that is not read here; if not, move it elsewhere"
            raise FormatError(f"{path}: named like a weights file, but its content fits no known format", reason="unknown", advice=advice)
        if fit is None:
            return None
        format = fit.name
    checkpoint = naming.recognised(guarded(formats[format].open, path))
    if not checkpoint.info and not checkpoint.extras:
        raise FormatError(f"{path}: holds no tensors", reason="unsupported", advice="nothing to catalogue here")
    # An array container holds any data; without a float array it is no checkpoint.
    return None if checkpoint.format in ARRAY_FORMATS and checkpoint.num_params == 0 else checkpoint


def measured(wanted: Sequence[tuple[Checkpoint, Sequence[str]]]) -> list[list[TensorRow]]:
    """Measure tensors of several checkpoints; a tied tensor is measured under its first name alone."""
    owned = [list(dict.fromkeys(checkpoint.info[name].alias_of or name for name in names)) for checkpoint, names in wanted]
    items = [(checkpoint.info[name], checkpoint.storages[name]) for (checkpoint, _), own in zip(wanted, owned, strict=True) for name in own]
    measures = iter(measure_many(items))
    made = []
    for (checkpoint, names), own in zip(wanted, owned, strict=True):
        by_name = {name: next(measures) for name in own}
        made.append([_row(info, by_name[info.alias_of or info.name]) for info in map(checkpoint.info.__getitem__, names)])
    return made


def _row(info: TensorInfo, measure: Measure) -> TensorRow:
    s = measure.statistics
    return (
        info.name, info.dtype, list(info.shape), info.alias_of, measure.hash, info.numel, info.nbytes, s.num_zero, s.num_nan, s.num_inf,
        s.minimum, s.maximum, s.mean, s.std, s.l1, s.l2, s.skewness, s.kurtosis,
    )  # fmt: skip


def unread(checkpoint: Checkpoint) -> list[TensorRow]:
    """Rows of tensors elsewhere, from the header alone: without statistics, and with hashes that follow from their file and place."""
    made = []
    for name, info in checkpoint.info.items():
        storage = checkpoint.storages[name]
        assert isinstance(storage, FileSpan) and isinstance(storage.file, RemoteFile)
        digest = identity.unread_hash(storage.file.version or storage.file.address, storage.offset, info.dtype, info.shape)
        nothing = (None,) * 11
        made.append((name, info.dtype, list(info.shape), info.alias_of, digest, info.numel, info.nbytes, *nothing))
    return made  # type: ignore[return-value]


def finished(checkpoint: Checkpoint, rows: Sequence[TensorRow]) -> Read:
    """Put the rows of all tensors and the header together."""
    return Read(
        format=checkpoint.format,
        kind=checkpoint.kind,
        metadata=dict(checkpoint.metadata),
        id=identity.model_id((row[0], row[1], row[2], row[4]) for row in rows),
        weights_id=identity.weights_id(row[4] for row in rows),
        fingerprint=identity.architecture_id((row[0], row[2]) for row in rows),
        num_params=checkpoint.num_params,
        num_bytes=checkpoint.num_bytes,
        rows=tuple(rows),
        recipe=checkpoint.recipe,
        parents=checkpoint.parents,
    )
