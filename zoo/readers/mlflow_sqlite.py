"""MLflow's database in SQLite, `mlflow.db`: what it writes by default since its file store is in maintenance."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from weightspace.errors import RecordError
from weightspace.zoo.metrics import History, whole
from weightspace.zoo.readers import tracker_reader
from weightspace.zoo.readers.mlflow_values import finite, make_run, milliseconds
from weightspace.zoo.readers.sqlite_files import columns_of, has_tables, open_sqlite
from weightspace.zoo.runs.run import MAX_VALUES, Run

_TABLES = {
    "runs": frozenset({"run_uuid", "status", "start_time", "end_time", "artifact_uri", "lifecycle_stage", "experiment_id"}),
    "metrics": frozenset({"key", "value", "timestamp", "run_uuid", "step", "is_nan"}),
    "params": frozenset({"key", "value", "run_uuid"}),
    "tags": frozenset({"key", "value", "run_uuid"}),
    "experiments": frozenset({"experiment_id", "name"}),
}


def _path(source: str) -> Path:
    path = Path(source.removeprefix("sqlite:///"))
    return path / "mlflow.db" if path.is_dir() else path


def sniff(source: str) -> bool:
    """A SQLite file with MLflow's tables, its `sqlite:///` address, or a folder with an mlflow.db."""
    return ("://" not in source or source.startswith("sqlite:///")) and has_tables(_path(source), _TABLES)


@tracker_reader("mlflow-sqlite", sniff=sniff)
def read(source: str) -> Iterator[Run]:
    """Yield the runs in the order in which they started, deleted ones left out."""
    path = _path(source)
    with open_sqlite(path) as connection:
        for table, columns in _TABLES.items():
            if not columns <= columns_of(connection, table):
                raise RecordError(f"{path}: expected MLflow's table '{table}', which is not there; name an mlflow.db")
        # `name` came with MLflow 2; before, a run's name was a tag alone.
        name = "name" if "name" in columns_of(connection, "runs") else "null"
        experiments = {row["experiment_id"]: row["name"] for row in connection.execute("select experiment_id, name from experiments")}
        query = f"select run_uuid, {name} as run_name, status, start_time, end_time, artifact_uri, experiment_id from runs"
        for row in connection.execute(f"{query} where lifecycle_stage is not 'deleted' order by start_time, run_uuid"):
            info = {key: row[key] for key in ("run_name", "status", "start_time", "end_time", "artifact_uri")}
            run_id = str(row["run_uuid"])
            yield make_run(
                run_id,
                {**info, "experiment": experiments.get(row["experiment_id"])},
                _texts(connection, "params", run_id),
                _texts(connection, "tags", run_id),
                _history(connection, run_id),
            )


def _texts(connection: sqlite3.Connection, table: str, run_id: str) -> dict[str, str]:
    found = connection.execute(f"select key, value from {table} where run_uuid = ? order by key limit {MAX_VALUES}", (run_id,))
    return {str(row["key"]): str(row["value"]) for row in found}


def _history(connection: sqlite3.Connection, run_id: str) -> History:
    history = History()
    query = "select key, value, timestamp, step, is_nan from metrics where run_uuid = ? order by key, step, timestamp"
    for row in connection.execute(query, (run_id,)):
        value = float("nan") if row["is_nan"] else finite(row["value"])
        history.add(str(row["key"]), value, whole(row["step"]), milliseconds(row["timestamp"]))
    return history
