"""Importing runs: what an experiment tracker or a model zoo knows, written to the catalog and joined with its checkpoints."""

import itertools
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path

import duckdb
import pyarrow as pa

from weightspace.errors import RecordError, UnknownNameError
from weightspace.zoo.catalog import Catalog
from weightspace.zoo.ingest import Report
from weightspace.zoo.model_table import refresh_model_table
from weightspace.zoo.readers import read_runs, tracker_readers
from weightspace.zoo.readers.model_zoos import Training, ZooReader, read_zoo, zoo_reader_for, zoo_readers
from weightspace.zoo.runs.matching import File, Match, match_runs
from weightspace.zoo.runs.networks import catalogue_networks
from weightspace.zoo.runs.run import Run
from weightspace.zoo.write import write_metrics, write_runs, write_tags

BATCH = 200  # runs of a tracker a transaction
NETWORKS = 4096  # of a model zoo; a transaction costs as much as reading some hundred of them


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        runs: runs read and written.
        points: metric values among them.
        matches: checkpoints that were found to belong to one of them, with the evidence.
        notes: what was left out or damaged, a line each.
        networks: what was catalogued of a model zoo; None for a tracker, which has runs alone.
    """

    runs: int = 0
    points: int = 0
    matches: list[Match] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    networks: Report | None = None


def import_runs(catalog: Catalog, source: str | Path, *, reader: str | None = None) -> ImportReport:
    """Write the runs of a tracker or a model zoo to the catalog and give each checkpoint its run, step and metrics.

    A checkpoint gets the points logged at its own step; a run's last checkpoint also gets what was logged without a
    step. Importing again refreshes; a checkpoint that matches no run, or more than one, stays as it is. A tracker's runs are matched to
    what is catalogued; a model zoo says which checkpoints are its own, and those are catalogued with it.

    Args:
        catalog: created if it does not exist.
        source: a tracker's folder, file or server address, or the folder or split file of a model zoo.
        reader: name of the reader, when the content does not tell.

    Raises:
        RecordError: nothing there, or damaged records; batches already written stay good.
    """
    # Trackers are asked first: they look at one folder, zoos at those below it too.
    is_tracked = reader is None and any(one.sniff(str(source)) for one in tracker_readers.values())
    zoo = None if is_tracked else zoo_reader_for(str(source), reader)
    if zoo is not None:
        return _import_zoo(catalog, zoo, Path(source).absolute())
    if reader is not None and reader not in tracker_readers:
        raise UnknownNameError.of("tracker reader", reader, [*tracker_readers, *zoo_readers])
    runs = read_runs(source, reader)
    report = ImportReport()
    catalog.create()
    files = _files(catalog)
    report.matches = match_runs(_written(catalog, runs, report), list(files))
    if report.matches:
        with catalog.writing() as connection:
            _settle(connection, report.matches, files)
    return report


def _import_zoo(catalog: Catalog, reader: ZooReader, source: Path) -> ImportReport:
    """Catalogue the networks of a model zoo batch by batch, each with its run.

    Raises:
        RecordError: nothing could be read; else what went wrong is among the notes.
        KeyboardInterrupt: pressed while networks were read; what was done is in the catalog.
    """
    report = ImportReport(networks=Report())
    assert report.networks is not None
    started = time.monotonic()
    catalog.create()
    base = source if source.is_dir() else source.parent
    for batch in _batches(read_zoo(reader, source), report.notes):
        catalogued = catalogue_networks(catalog, batch, base, report.networks)
        _write(catalog, [one.run for one in batch], report)
        matches = [
            Match(one.key, File(*one.file), one.step, f"the zoo's own files, read by '{reader.name}'") for one in catalogued.networks
        ]
        with catalog.writing() as connection:
            if matches:
                _settle(connection, matches, {match.file: one.file_id for match, one in zip(matches, catalogued.networks, strict=True)})
            write_tags(connection, catalogued.labels)
        report.matches += matches
        report.notes += catalogued.notes
        if report.networks.interrupted:
            raise KeyboardInterrupt
    report.networks.seconds = time.monotonic() - started
    if not report.runs:
        raise RecordError(
            report.notes[0] if report.notes else f"{source}: the reader '{reader.name}' finds no training there; name another folder"
        )
    return report


def _batches(found: Iterable[Training | str], notes: list[str]) -> Iterator[list[Training]]:
    """Gather trainings until they have enough networks; lines go among the notes."""
    batch: list[Training] = []
    count = 0
    for one in found:
        if isinstance(one, str):
            notes.append(one)
            continue
        batch.append(one)
        count += max(1, len(one.networks))
        if count >= NETWORKS:
            yield batch
            batch, count = [], 0
    if batch:
        yield batch


def _files(catalog: Catalog) -> dict[File, int]:
    """Every catalogued checkpoint file, with its row's id."""
    with catalog.reading() as connection:
        rows = connection.execute(
            "select file_id, path, modified, step, runs.key from files left join runs on runs.run_id = files.run_id and runs.source = 'folder' order by file_id"
        ).fetchall()
    root = catalog.home.parent
    return {File(root / path, modified.replace(tzinfo=UTC), step, run): file_id for file_id, path, modified, step, run in rows}


def _written(catalog: Catalog, runs: Iterable[Run], report: ImportReport) -> Iterator[Run]:
    """Write runs in batches as they are read, and pass them on."""
    stream = iter(runs)
    while batch := list(itertools.islice(stream, BATCH)):
        _write(catalog, batch, report)
        yield from batch


def _write(catalog: Catalog, batch: Sequence[Run], report: ImportReport) -> None:
    with catalog.writing() as connection:
        numbers = write_runs(connection, batch)
        write_metrics(connection, [(None, numbers[run.key], metric, run.source) for run in batch for metric in run.metrics])
    report.runs += len(batch)
    report.points += sum(len(run.metrics) for run in batch)
    report.notes += [f"{run.name}: {note}" for run in batch for note in run.notes]


def _settle(connection: duckdb.DuckDBPyConnection, matches: list[Match], files: dict[File, int]) -> None:
    connection.register(
        "matched",
        pa.table(
            {
                "file_id": pa.array([files[match.file] for match in matches], pa.int32()),
                "key": pa.array([match.run for match in matches], pa.string()),
                "step": pa.array([match.step for match in matches], pa.int64()),
            }
        ),
    )
    connection.execute("create or replace temp table found as select file_id, files.model_id, runs.run_id, matched.step, files.modified"
                       " from matched join runs using (key) join files using (file_id)")  # fmt: skip
    connection.unregister("matched")
    _absorb_folder_runs(connection)
    connection.execute(
        "update files set run_id = found.run_id, step = coalesce(found.step, files.step) from found where files.file_id = found.file_id"
    )
    connection.execute("delete from metrics using found where metrics.model_id = found.model_id and metrics.run_id = found.run_id")
    connection.execute(
        """
        insert into metrics by name
        with placed as (
            select distinct model_id, run_id, step, row_number() over (partition by run_id order by step desc nulls last, modified desc, file_id) = 1 as is_last
            from found
        ), last_values as (
            select run_id, name, split, arg_max(value, coalesce(step, 9223372036854775807)) as value, max(step) as step, any_value(source) as source, max(time) as time
            from metrics where model_id is null and run_id in (select run_id from placed where step is null) group by all
        )
        select placed.model_id, r.run_id, r.name, r.split, r.step, r.value, r.source, r.time, now()::timestamp as recorded
        from placed join metrics r on r.run_id = placed.run_id and r.model_id is null
        where (placed.step is not null and r.step = placed.step) or (placed.is_last and r.step is null)
        union all by name
        select placed.model_id, l.run_id, l.name, l.split, l.step, l.value, l.source, l.time, now()::timestamp as recorded
        from placed join last_values l using (run_id) where placed.is_last and placed.step is null and l.step is not null
        """
    )
    connection.execute("drop table found")
    refresh_model_table(connection)


def _absorb_folder_runs(connection: duckdb.DuckDBPyConnection) -> None:
    """Where a tracker's run turns out to be a folder's run: keep one, with the settings that the folder alone knew."""
    connection.execute(
        """
        create or replace temp table absorbed as
        select files.run_id as folder_id, min(found.run_id) as run_id
        from files join runs on runs.run_id = files.run_id and runs.source = 'folder' left join found using (file_id)
        group by files.run_id having count(found.file_id) = count(*) and count(distinct found.run_id) = 1 and min(found.run_id) != files.run_id
        """
    )
    connection.execute(
        """
        update runs set seed = coalesce(runs.seed, folder.seed),
            hyperparameters = json_merge_patch(coalesce(folder.hyperparameters, '{}'), coalesce(runs.hyperparameters, '{}'))
        from absorbed join runs as folder on folder.run_id = folder_id where runs.run_id = absorbed.run_id
        """
    )
    connection.execute("delete from metrics using absorbed where metrics.run_id = folder_id and metrics.model_id is null")
    connection.execute("update metrics set run_id = absorbed.run_id from absorbed where metrics.run_id = folder_id")
    connection.execute("delete from runs using absorbed where runs.run_id = folder_id")
    connection.execute("drop table absorbed")
