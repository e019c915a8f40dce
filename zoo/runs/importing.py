"""Importing runs: what an experiment tracker knows, written to the catalog and matched to its checkpoints."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path

import duckdb
import pyarrow as pa

from weightspace.zoo.catalog import Catalog
from weightspace.zoo.model_table import refresh_model_table
from weightspace.zoo.readers import read_runs
from weightspace.zoo.runs.matching import File, Match, match_runs
from weightspace.zoo.runs.run import Run
from weightspace.zoo.write import write_metrics, write_runs

BATCH = 200  # runs a transaction


@dataclass
class ImportReport:
    """What an import did.

    Attributes:
        runs: runs read and written.
        points: metric values among them.
        matches: checkpoints that were found to belong to one of them, with the evidence.
        notes: what was left out or damaged, a line each.
    """

    runs: int = 0
    points: int = 0
    matches: list[Match] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def import_runs(catalog: Catalog, source: str | Path, *, reader: str | None = None) -> ImportReport:
    """Write the runs of a tracker to the catalog and give each catalogued checkpoint its run, step and metrics.

    A checkpoint gets the points logged at its own step; a run's last checkpoint also gets what was logged without a
    step. Importing again refreshes; a checkpoint that matches no run, or more than one, stays as it is.

    Args:
        catalog: created if it does not exist.
        source: a tracker's folder, file or server address.
        reader: name of the tracker reader, when the content does not tell.

    Raises:
        RecordError: nothing there, or damaged records; batches already written stay good.
    """
    runs = read_runs(source, reader)
    report = ImportReport()
    catalog.create()
    files = _files(catalog)
    report.matches = match_runs(_written(catalog, runs, report), list(files))
    if report.matches:
        with catalog.writing() as connection:
            _settle(connection, report.matches, files)
    return report


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
        with catalog.writing() as connection:
            numbers = write_runs(connection, batch)
            write_metrics(connection, [(None, numbers[run.key], metric, run.source) for run in batch for metric in run.metrics])
        report.runs += len(batch)
        report.points += sum(len(run.metrics) for run in batch)
        report.notes += [f"{run.name}: {note}" for run in batch for note in run.notes]
        yield from batch


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
