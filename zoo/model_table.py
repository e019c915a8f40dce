"""The view `model_table`: one row a model, with its metrics as columns."""

from collections.abc import Iterable
from datetime import datetime

import duckdb

from weightspace.zoo.literals import identifier, quoted

MAX_METRIC_COLUMNS = 200  # further metric names stay rows of `metrics`; a table wider than this helps nobody

COLUMNS = {
    "model_id": "models.model_id",
    "id": "lower(hex(models.id))",
    "name": "models.name",
    "kind": "models.kind",
    "architecture_id": "models.architecture_id",
    "family": "architectures.family",
    "num_params": "models.num_params",
    "num_bytes": "models.num_bytes",
    "num_tensors": "models.num_tensors",
    "is_finite": "models.is_finite",
    "licence": "models.licence",
    "base_model": "models.base_model",
    "datasets": "models.datasets",
    "languages": "models.languages",
    "library": "models.library",
    "task": "models.task",
    "path": "first_files.path",
    "format": "first_files.format",
    "run": "runs.name",
    "seed": "runs.seed",
    "step": "first_files.step",
    "catalogued": "models.catalogued",
}

_SOURCES = """
from (select * from models where {chosen}) as models left join architectures using (architecture_id)
left join (
    select model_id, arg_min(path, file_id) as path, arg_min(format, file_id) as format, arg_min(run_id, file_id) as run_id, arg_min(step, file_id) as step
    from files where {chosen} group by model_id
) as first_files using (model_id)
left join runs on runs.run_id = first_files.run_id
"""


def refresh_model_table(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the view anew from the metric names there are: `accuracy`, `test_accuracy`, ...; see `model_table_statements`."""
    for statement in model_table_statements(connection):
        connection.execute(statement)


def model_table_statements(connection: duckdb.DuckDBPyConnection) -> tuple[str, ...]:
    """What makes the view as it should be now.

    Of metrics that would have one name, DuckDB's letters being of no case, that which has it keeps it: what a column says
    does not change because another metric is recorded. A metric's column holds its value at the latest step; one without a step counts as latest. DuckDB views have fixed
    columns, so this is called whenever metrics were written; it costs a scan of the metric names. The table macro
    `model_rows(ids)` gives the same rows for a list of models: DuckDB carries no list of ids from a join or a filter
    into the two groupings of the view, so that a page of fifty models would cost as much as the whole zoo.
    """
    names = connection.execute(
        "select split, name, min(recorded) from metrics where model_id is not null group by split, name order by count(*) desc, split, name limit ?",
        [MAX_METRIC_COLUMNS],
    ).fetchall()
    there = connection.execute(
        "select column_name from duckdb_columns() where table_name = 'model_table' and database_name = current_database()"
    ).fetchall()
    columns = _named(names, {column for (column,) in there})
    pivot = []
    for (split, name), column in sorted(columns.items(), key=lambda item: (item[0][0] or "", item[0][1])):
        same = f"name = {quoted(name)} and split is not distinct from {quoted(split) if split else 'null'}"
        pivot.append(f"arg_max(value, coalesce(step, 9223372036854775807)) filter (where {same}) as {identifier(column)}")
    return (
        f"create or replace view model_table as {_select(pivot, 'model_id is not null')}",
        f"create or replace macro model_rows(ids) as table {_select(pivot, 'model_id in (select unnest(ids))')}",
        "comment on view model_table is 'one row a model: identity, size, card, first file, run, and its metrics as columns'",
    )


def _named(metrics: Iterable[tuple[str | None, str, datetime | None]], there: set[str]) -> dict[tuple[str | None, str], str]:
    """Give each metric a column of its own.

    Args:
        metrics: split, name, and when the first value came in; of two that would have one name, the earlier has it.
        there: columns as they are now; a metric whose name stands there letter by letter has it, whenever its values came in,
            since a value that is recorded again comes in again.
    """

    def age(metric: tuple[str | None, str, datetime | None]) -> tuple[bool, datetime, str, str]:
        split, name, first = metric
        return _plain(split, name) not in there, first or datetime.min, split or "", name

    taken = {column.lower() for column in COLUMNS}
    columns = {}
    for split, name, _ in sorted(metrics, key=age):
        column = _plain(split, name)
        while column.lower() in taken:
            column += "_"
        taken.add(column.lower())
        columns[split, name] = column
    return columns


def _plain(split: str | None, name: str) -> str:
    return f"{split}_{name}" if split else name


def _select(pivot: list[str], chosen: str) -> str:
    fixed = ", ".join(f"{expression} as {column}" for column, expression in COLUMNS.items())
    if not pivot:
        return f"select {fixed} {_SOURCES.format(chosen=chosen)}"
    wide = f"select model_id, {', '.join(pivot)} from metrics where {chosen} group by model_id"
    return f"select {fixed}, measured.* exclude (model_id) {_SOURCES.format(chosen=chosen)} left join ({wide}) as measured using (model_id)"
