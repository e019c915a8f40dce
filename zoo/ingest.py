"""Ingest: find checkpoints, read each tensor once on several processes, write them to the catalog in batches."""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from weightspace import parallel
from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError
from weightspace.zoo import reading, store
from weightspace.zoo.beside import describe
from weightspace.zoo.catalog import Catalog
from weightspace.zoo.discover import Found, below, discover
from weightspace.zoo.records import ModelRecord, Place, Record, Redescription, Refusal, TensorRow
from weightspace.zoo.store.copies import Copies
from weightspace.zoo.write import forget_paths, write_place, write_records, write_tags

TASK_BYTES = 32 << 20
TASK_FILES = 64
FLUSH_SECONDS = 2.0  # between writes; longer where the catalog is so large that a write takes more than a tenth of it
FLUSH_TENSORS = 40_000
_FEW = 16 << 20  # less work than this is done in this process: starting workers would take longer

_Planned = tuple[reading.Task, tuple[Found, ...]]


@dataclass(frozen=True)
class Progress:
    """How far an ingest or a filling has come: checkpoints or networks and their bytes, done and found so far."""

    done: int
    found: int
    bytes_done: int
    bytes_found: int


@dataclass
class Report:
    """What an ingest did.

    Attributes:
        catalogued: checkpoint files that were read and written, new or changed.
        new_models: contents that the catalog did not have.
        redescribed: files whose weights were known but whose metadata had changed.
        unchanged: files that were known, and not read again.
        passed_over: files that are no checkpoints.
        quarantined: files refused in this run.
        non_finite: names of models with NaN or infinities.
        not_copied: checkpoints that were catalogued, but could not be copied into the store.
        bytes_read: bytes of checkpoints read.
        seconds: wall time.
        interrupted: whether Ctrl-C ended it; what was done is in the catalog.
    """

    catalogued: int = 0
    new_models: int = 0
    redescribed: int = 0
    unchanged: int = 0
    passed_over: int = 0
    quarantined: list[Refusal] = field(default_factory=list)
    non_finite: list[str] = field(default_factory=list)
    not_copied: list[Refusal] = field(default_factory=list)
    bytes_read: int = 0
    seconds: float = 0.0
    interrupted: bool = False


@dataclass
class _Partial:
    """A large checkpoint of which some tensors are still being measured."""

    checkpoint: Checkpoint
    parts: int
    missing: int
    rows: dict[str, TensorRow] = field(default_factory=dict)
    refused: reading.Refused | None = None


def ingest(
    catalog: Catalog,
    roots: Sequence[str | Path],
    *,
    jobs: int | None = None,
    backend: str = "local",
    tags: Mapping[str, str] | None = None,
    copy: bool = False,
    prefix: str = "",
    base: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Catalogue every checkpoint under the roots; running it again reads only what is new or changed.

    Args:
        catalog: created if it does not exist.
        roots: files and folders.
        jobs: processes; by default as many as there are cores, here or in the cluster, and this one alone when there is little to do.
        backend: where they are; see `weightspace.parallel.run`. On a cluster the paths must lead to the same files everywhere.
        tags: labels for every model found, also for those that are known already.
        copy: also keep the weights in the zoo's store. A copy that is gone, of another size than it had or without a readable header is
            made anew; one of a file that is read in this run is read, too, and made anew where it is not what its name says.
        prefix: put before the names of new models, such as `lpips/`.
        base: see `discover`.
        progress: called after each checkpoint.

    Raises:
        FormatError: a root does not exist. What is wrong with a single file is in the report instead.
    """
    started = time.monotonic()
    if not all(str(root) for root in roots):
        raise FormatError("a path to ingest is empty", reason="unreadable", advice="name a file or folder; '.' is the working folder")
    parallel.backends[backend]  # a name that is none is told before any work
    catalog.create()
    run = _Ingest(catalog, dict(tags or {}), copy, prefix, progress)
    try:
        with reading.uncollected():
            run.take(discover(roots, base=base), jobs, backend)
        run.forget_missing(roots)
        run.flush()
    except KeyboardInterrupt:
        run.report.interrupted = True
    finally:
        run.flush()  # what an interruption or an error left over
    run.report.seconds = time.monotonic() - started
    return run.report


class _Ingest:
    """One run: collects outcomes, and writes them in batches."""

    def __init__(
        self, catalog: Catalog, tags: dict[str, str], copy: bool, prefix: str, progress: Callable[[Progress], None] | None
    ) -> None:
        self.catalog, self.tags, self.copy, self.prefix, self.progress = catalog, tags, copy, prefix, progress
        self.report = Report()
        self.known = known_stamps(catalog)
        self.rows = {
            one.model: Path(path) for path, one in self.known.items() if one.model is not None and Path(path).stem == one.model.hex()
        }
        self.copies = Copies(store.root_of(catalog.home))
        self.there: dict[bytes, bool] = {}
        self.copied: set[bytes] = set()
        self.mended: list[tuple[str, Place]] = []
        self.describer = describe.Describer()
        self.pending: list[Record] = []
        self.pending_tensors = 0
        self.tagged: list[str] = []
        self.flushed, self.pause = time.monotonic(), FLUSH_SECONDS
        self.partials: dict[Path, _Partial] = {}
        self.done = self.found = self.bytes_done = self.bytes_found = 0

    def take(self, founds: Iterable[Found], jobs: int | None, backend: str) -> None:
        """Read what was found on `jobs` processes; a worker that dies costs only the file it was reading."""
        planned = list(self._tasks(founds))
        if sum(found.size for _, group in planned for found in group) < _FEW and len(planned) <= 2:
            jobs, backend = 1, "local"
        elif backend == "local":
            jobs = jobs or parallel.available_cores()
        tasks = (task for task, _ in planned)
        # Closed here, and not when it is collected: after Ctrl-C no worker goes on while the rest is written.
        with contextlib.closing(parallel.run(reading.work, tasks, jobs=jobs, backend=backend, died=_one_by_one)) as results:
            for item, outcomes in zip(planned, results, strict=True):
                self._settle(item, outcomes)

    def _tasks(self, founds: Iterable[Found]) -> Iterator[_Planned]:
        """Settle what is known, and plan the rest: small files in groups, large ones in parts."""
        group: list[Found] = []
        for found in founds:
            self.found += 1
            self.bytes_found += found.size
            if self._is_known(found):
                continue
            if found.size > reading.PART_BYTES:
                if group:  # so that everything is written in the order in which it was found, wherever a run stopped
                    yield _task(group)
                    group = []
                yield from self._parts(found)
                continue
            group.append(found)
            if len(group) >= TASK_FILES or sum(one.size for one in group) >= TASK_BYTES:
                yield _task(group)
                group = []
        if group:
            yield _task(group)

    def _is_known(self, found: Found) -> bool:
        known = self.known.get(str(found.path))
        # What is known of a file of the store lies nowhere else, and it never changes.
        if known is not None and known.stamp == store.STAMP and known.model is not None:
            self.report.unchanged += 1
            self._tag(self._place(found).path)
            self._advance(found)
            return True
        if known is None or known.stamp != found.stamp or (self.copy and known.model and not self._is_copied(known.model)):
            return False
        place = self._place(found)
        if known.sidecar_stamp in (None, place.sidecar_stamp):
            self.report.unchanged += 1
            self._tag(place.path)
        else:
            self.report.redescribed += 1
            self._add(Redescription(place, self.describer.describe(found, {})))
        self._advance(found)
        return True

    def _parts(self, found: Found) -> Iterator[_Planned]:
        try:
            checkpoint = reading.open_as(found.path, found.format)
        except FormatError as error:
            self._refuse(found, reading.Refused(error.reason, error.detail, error.advice))
            return
        if checkpoint is None:
            self._pass_over(found)
            return
        groups: list[list[str]] = [[]]
        size = 0
        for name, info in checkpoint.info.items():
            if size >= reading.PART_BYTES:
                groups.append([])
                size = 0
            groups[-1].append(name)
            size += info.nbytes
        self.partials[found.path] = _Partial(checkpoint, len(groups), len(groups))
        for names in groups:
            yield reading.Task((found.path,), (checkpoint.format,), tuple(names)), (found,)

    def _settle(self, item: _Planned, outcomes: Sequence[reading.Outcome]) -> None:
        task, founds = item
        for found, outcome in zip(founds, outcomes, strict=True):
            if task.names is not None:
                joined = self._join(found, outcome)
                if joined is None:
                    continue
                outcome = joined
            if isinstance(outcome, reading.Refused):
                self._refuse(found, outcome)
            elif isinstance(outcome, reading.Passed):
                self._pass_over(found)
            elif isinstance(outcome, reading.Read):
                self._accept(found, outcome)
        if self.pending_tensors > FLUSH_TENSORS or time.monotonic() - self.flushed > self.pause:
            self.flush()

    def _join(self, found: Found, outcome: reading.Outcome) -> reading.Outcome | None:
        partial = self.partials[found.path]
        partial.missing -= 1
        if isinstance(outcome, reading.Part):
            partial.rows |= outcome.rows
        elif isinstance(outcome, reading.Refused):
            partial.refused = partial.refused or outcome
        if partial.missing:
            # Its bytes count as they are read, so that one giant file moves the bar.
            share = found.size * (partial.parts - partial.missing) // partial.parts
            self._tell(self.bytes_done + share)
            return None
        del self.partials[found.path]
        if partial.refused:
            return partial.refused
        return reading.finished(partial.checkpoint, [partial.rows[name] for name in partial.checkpoint.info])

    def _accept(self, found: Found, read: reading.Read) -> None:
        place = replace(self._place(found), format=read.format)
        description = self.describer.describe(found, read.metadata)
        record = ModelRecord(
            place=place,
            name=self.prefix + found.name,
            id=read.id,
            weights_id=read.weights_id,
            fingerprint=read.fingerprint,
            kind="adapter" if "adapter_config" in description.metadata else read.kind,
            num_params=read.num_params,
            num_bytes=read.num_bytes,
            tensors=read.rows,
            description=description,
            recipe=read.recipe,
            parents=read.parents,
        )
        if not record.is_finite:
            self.report.non_finite.append(record.name)
        self.report.catalogued += 1
        self.report.bytes_read += found.size
        copied = self._copied(found, record) if self.copy else None
        self._add(record)
        if copied:
            self._add(copied)
        self._advance(found)

    def _copied(self, found: Found, record: ModelRecord) -> ModelRecord | None:
        """Copy a checkpoint into the store; what is to be catalogued of the copy, None where its row is there or nothing could be copied.

        Raises:
            CatalogError: the store cannot be written, which would go on for every further file.
        """
        if record.id in self.copied:
            return None
        row = self.rows.get(record.id)
        if self._is_copied(record.id) and self.copies.are_whole(record.id.hex()):
            self.copied.add(record.id)
            return None
        try:
            checkpoint = reading.open_as(found.path, record.place.format)
            assert checkpoint is not None
            if row is not None:
                place = store.put_anew(self.catalog.home, checkpoint, record.id.hex())
                self.mended.append((stored_path(row, self.catalog.home.parent), place))
            copied = None if row is not None else store.copied(self.catalog.home, checkpoint, record)
        except FormatError as error:
            self.report.not_copied.append(Refusal(record.place, error.reason, error.detail, error.advice))
            return None
        self.copied.add(record.id)
        self.there[record.id] = True
        return copied

    def _is_copied(self, model: bytes) -> bool:
        """Whether the store has a copy, as far as can be told without reading it."""
        if model not in self.there:
            row = self.rows.get(model)
            self.there[model] = row is not None and self.copies.are_there(model.hex(), row.suffix, self.known[str(row)].size)
        return self.there[model]

    def _pass_over(self, found: Found) -> None:
        self.report.passed_over += 1
        self._advance(found)

    def _refuse(self, found: Found, refused: reading.Refused) -> None:
        refusal = Refusal(self._place(found), refused.reason, refused.detail, refused.advice)
        self.report.quarantined.append(refusal)
        self._add(refusal)
        self._advance(found)

    def _place(self, found: Found) -> Place:
        return Place(
            path=stored_path(found.path, self.catalog.home.parent),
            format=found.format,
            num_files=len(found.files),
            size=found.size,
            modified=datetime.fromtimestamp(found.modified / 1e9, UTC).replace(tzinfo=None),
            stamp=found.stamp,
            sidecar_stamp=self.describer.stamp(found),
        )

    def _add(self, record: Record) -> None:
        self.pending.append(record)
        if isinstance(record, ModelRecord):
            self.pending_tensors += len(record.tensors)
        if not isinstance(record, Refusal):
            self._tag(record.place.path)

    def _tag(self, path: str) -> None:
        if self.tags:
            self.tagged.append(path)

    def _advance(self, found: Found) -> None:
        self.done += 1
        self.bytes_done += found.size
        self._tell(self.bytes_done)

    def _tell(self, bytes_done: int) -> None:
        if self.progress:
            self.progress(Progress(self.done, self.found, bytes_done, self.bytes_found))

    def forget_missing(self, roots: Sequence[str | Path]) -> None:
        """Forget files below the roots that are no longer there, so that a moved file is not taken for a copy."""
        folders = [f"{os.path.abspath(root).rstrip(os.sep)}{os.sep}" for root in roots if Path(root).is_dir()]  # noqa: PTH100 - as discovery writes paths
        gone = [path for path in self.known if path.startswith(tuple(folders)) and not os.path.lexists(path)]
        if gone:
            with self.catalog.writing() as connection:
                forget_paths(connection, [stored_path(Path(path), self.catalog.home.parent) for path in gone])

    def flush(self) -> None:
        """Write what has gathered, in one transaction."""
        started = time.monotonic()
        if self.pending or self.tagged:
            with self.catalog.writing() as connection:
                count = "select count(*) from models"
                [(before,)] = connection.execute(count).fetchall()
                write_records(connection, self.pending)
                for path, place in self.mended:
                    write_place(connection, path, place)
                [(after,)] = connection.execute(count).fetchall()
                self.report.new_models += after - before
                if self.tagged:
                    ids = dict(connection.execute("select path, model_id from files").fetchall())
                    write_tags(
                        connection, [(ids[path], key, value) for path in self.tagged if path in ids for key, value in self.tags.items()]
                    )
        self.pending, self.pending_tensors, self.tagged, self.mended = [], 0, [], []
        self.flushed = time.monotonic()
        self.pause = max(FLUSH_SECONDS, 10 * (self.flushed - started))


def _one_by_one(task: reading.Task, error: parallel.WorkerDiedError) -> list[reading.Outcome]:
    """After workers died of a task: give each of its files a process of its own, and quarantine the one that kills it again."""
    outcomes: list[reading.Outcome] = []
    for path, format in zip(task.paths, task.formats, strict=True):
        single = reading.Task((path,), (format,), task.names)
        try:
            if single == task:
                raise error
            outcomes += next(parallel.run(reading.work, [single], jobs=2))
        except parallel.WorkerDiedError:
            advice = "there may not be enough memory for it, or a library cannot stand it; look at it with other tools"
            outcomes.append(reading.Refused("crashed", f"{path}: the process that read it died", advice))
    return outcomes


def _task(group: Sequence[Found]) -> _Planned:
    return reading.Task(tuple(f.path for f in group), tuple(f.format for f in group)), tuple(group)


class Known(NamedTuple):
    """What the catalog remembers of a path.

    Attributes:
        stamp: fingerprint of the weights' files.
        sidecar_stamp: the same of what lies beside them; None for a path that was refused.
        model: identity of what was read there; None for a path that was refused.
        size: bytes of its files; None for a path that was refused.
    """

    stamp: int
    sidecar_stamp: int | None
    model: bytes | None
    size: int | None


def known_stamps(catalog: Catalog) -> dict[str, Known]:
    """Look up every path that the catalog has seen."""
    with catalog.reading() as connection:
        files = connection.execute("select path, stamp, sidecar_stamp, id, size from files join models using (model_id)").fetchall()
        refused = connection.execute("select path, stamp, null, null, null from quarantine").fetchall()
    root = catalog.home.parent
    return {str(root / path): Known(*known) for path, *known in [*refused, *files]}


def stored_path(path: Path, root: Path) -> str:
    """The path as the catalog keeps it: relative inside the zoo's own folder, so that the folder can be moved; else absolute."""
    text = "." if path == root else below(path, root)
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
