"""Questions to a catalog: models, one model's page, duplicates, quarantine; all of them plain SQL over documented tables."""

import contextlib
import difflib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from weightspace.errors import CatalogError, UnknownNameError, close_names, one_line
from weightspace.zoo.discover import stamp_at
from weightspace.zoo.literals import quoted
from weightspace.zoo.metrics import split_name
from weightspace.zoo.model_table import COLUMNS
from weightspace.zoo.store import STAMP

Connection = duckdb.DuckDBPyConnection
_HEX = re.compile(r"[0-9a-f]{4,64}")
_MISSING = re.compile(r'Referenced column "(.+?)" not found')
_FULL = re.compile("No space left|File too large|Disk quota")
_PAGE = 1000  # models whose ids are few enough to be written into a statement


def arrow(connection: Connection, sql: str, parameters: Sequence[Any] = ()) -> pa.Table:
    """Run one read-only statement and return its rows as an Arrow table.

    Raises:
        CatalogError: the statement is wrong, or would write or leave the catalog; DuckDB's own first line says why.
    """
    try:
        if len(connection.extract_statements(sql)) != 1:
            raise CatalogError("sql: expected one statement; ask them one by one")
        relation = connection.sql(sql, params=list(parameters))
        return pa.table({}) if relation is None else relation.to_arrow_table()
    except duckdb.Error as error:
        raise CatalogError(_without_metric(connection, sql, error) or _explained(error)) from None


def _without_metric(connection: Connection, sql: str, error: duckdb.Error) -> str:
    """Say that a column of `model_table` that looks like a metric is none; empty where something else is wrong."""
    missing = _MISSING.search(str(error))
    if missing is None or "model_table" not in sql:
        return ""
    column = missing[1]
    if split_name(column)[1] is None and difflib.get_close_matches(column.lower(), COLUMNS, n=1):
        return ""
    with contextlib.suppress(duckdb.Error):
        there = connection.execute("select column_name from (describe model_table)").fetchall()
        metrics = [name for (name,) in there if name not in COLUMNS]
        if not metrics:
            return (
                f"sql: column \"{column}\" not found: no metric is recorded yet; 'weightspace record' and 'weightspace import' bring them"
            )
        return f"sql: column or metric \"{column}\" not found{close_names(column, metrics)}; 'weightspace record' records further ones"
    return ""


def _explained(error: duckdb.Error) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r"^(Binder|Catalog|Parser|Permission|Invalid Input|Conversion|Not implemented) (?:Input )?Error: ", "", lines[0])
    hint = next((line for line in lines[1:] if line.startswith(("Did you mean", "Candidate"))), "")
    if isinstance(error, duckdb.PermissionException) or "read-only" in text:
        return "sql reads the catalog and nothing else: no writes, other files or extensions; use 'record', 'tag' or 'ingest' to change it"
    if isinstance(error, duckdb.IOException | duckdb.FatalException | duckdb.InternalException) and not _FULL.search(text):
        return (
            f"the catalog cannot be read ({text}); 'weightspace check' says what is wrong with it, "
            "'weightspace restore' brings it back from a backup"
        )
    return f"sql: {text}{' ' + hint if hint else ''}; 'weightspace sql --tables' lists tables and columns"


def models(connection: Connection, where: str | None = None, order_by: str | None = None, limit: int | None = None) -> pa.Table:
    """One row a model with its metrics as columns: the view `model_table`, filtered."""
    if limit is None or limit > _PAGE:
        return _filtered(connection, "model_table", where, order_by or "name", limit)
    # First which models, from the columns that decide it; then all columns of those alone.
    page = f"(select * from model_table{_ending(where, order_by or 'name', limit)})"
    ids = arrow(connection, f"select model_id from {page}")["model_id"].to_pylist()
    return arrow(connection, f"select * from model_rows({ids}::integer[]) order by list_position({ids}::integer[], model_id)")


def runs(connection: Connection, where: str | None = None, order_by: str | None = None, limit: int | None = None) -> pa.Table:
    """One row a run, with the number of its checkpoints and their last step."""
    source = """(
        select runs.* exclude (recipe_id), count(file_id) as checkpoints, max(step) as last_step
        from runs left join files using (run_id) group by all
    )"""
    return _filtered(connection, source, where, order_by or "name, key", limit)


def files(connection: Connection, where: str | None = None, order_by: str | None = None, limit: int | None = None) -> pa.Table:
    """One row a checkpoint file or folder, with its model and run."""
    source = """(
        select path, models.name as model, lower(hex(models.id)) as id, model_id, format, num_files, size, modified, runs.name as run, step,
               lower(hex(sha256)) as sha256, ingested
        from files join models using (model_id) left join runs using (run_id)
    )"""
    return _filtered(connection, source, where, order_by or "path", limit)


def _filtered(connection: Connection, source: str, where: str | None, order_by: str, limit: int | None) -> pa.Table:
    return arrow(connection, f"select * from {source}{_ending(where, order_by, limit)}")


def _ending(where: str | None, order_by: str, limit: int | None) -> str:
    # Each on a line of its own, so that a comment in one does not swallow the next.
    condition = f"\nwhere {where}" if where else ""
    return f"{condition}\norder by {order_by}" + (f"\nlimit {int(limit)}" if limit is not None else "")


def stored_path(path: Path, root: Path) -> str:
    """How the catalog writes a path: from the zoo's folder on where it lies in it."""
    stored = str(path.relative_to(root)) if path.is_relative_to(root) else str(path)
    return stored.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def resolve(connection: Connection, model: str, root: Path) -> int:
    """Find the surrogate id of a model by name, by the first digits of its id (four at least), or by the path of a file.

    Raises:
        UnknownNameError: nothing fits; close names are suggested.
        CatalogError: several models fit.
    """
    by_name = connection.execute("select model_id from models where name = ?", [model]).fetchall()
    if by_name:
        return int(by_name[0][0])
    if _HEX.fullmatch(model.lower()):
        digits = model.lower()
        low, high = digits.ljust(64, "0"), digits.ljust(64, "f")
        found = connection.execute(
            "select model_id, name from models where id between unhex(?) and unhex(?) order by model_id limit 5", [low, high]
        ).fetchall()
        if len(found) == 1:
            return int(found[0][0])
        if found:
            raise CatalogError(f"id '{model}' fits several models: {', '.join(one_line(name, 60) for _, name in found)}; give more digits")
    path = Path(os.path.abspath(model))  # noqa: PTH100 - as discovery writes paths
    stored = stored_path(path, root)
    by_path = connection.execute("select model_id, stamp from files where path = ?", [stored]).fetchall()
    if by_path:
        if by_path[0][1] not in (STAMP, stamp_at(path)) and path.exists():
            raise CatalogError(f"{one_line(str(path))}: has changed since it was catalogued; ingest it again")
        return int(by_path[0][0])
    # A folder stands for the one model in it.
    inside = connection.execute(
        "select distinct model_id from files where starts_with(path, ?) limit 2", [stored.rstrip("/") + "/"]
    ).fetchall()
    if len(inside) == 1 and path.is_dir():
        return int(inside[0][0])
    names = connection.execute(
        "select name from models order by ends_with(name, '/' || ?) desc, contains(lower(name), lower(?)) desc,"
        " jaro_winkler_similarity(lower(name), lower(?)) desc, name limit 8",
        [model] * 3,
    ).fetchall()
    raise UnknownNameError(
        f"no model '{one_line(model, 120)}' in this zoo{close_names(model, [name for (name,) in names])}; 'weightspace ls' lists all"
    )


@dataclass(frozen=True)
class ModelPage:
    """Everything the catalog knows of one model.

    Attributes:
        model: its row of `model_table`.
        tensors: its tensors in order, with statistics.
        files: where it lies.
        metrics: recorded numbers.
        tags: labels.
        parents: names of the models it was made from, with the kind of descent.
        recipe: how it was made, where it was made here or its file says so.
    """

    model: dict[str, Any]
    tensors: pa.Table
    files: pa.Table
    metrics: pa.Table
    tags: dict[str, str]
    parents: tuple[tuple[str, str], ...]
    recipe: dict[str, Any] | None = None


def page(connection: Connection, model_id: int) -> ModelPage:
    """Gather a model's page."""
    one = arrow(connection, "select * from model_table where model_id = ?", [model_id]).to_pylist()[0]
    occurrences = arrow(
        connection, "select position, name, tensor_id, alias_of from model_tensors where model_id = ? order by position", [model_id]
    )
    return ModelPage(
        model=one,
        tensors=tensors_of(connection, occurrences),
        files=arrow(
            connection,
            "select path, format, num_files, size, modified, step, metadata from files where model_id = ? order by file_id",
            [model_id],
        ),
        metrics=arrow(
            connection, "select name, split, step, value, source from metrics where model_id = ? order by name, split, step", [model_id]
        ),
        tags=dict(connection.execute("select key, value from tags where model_id = ? order by key", [model_id]).fetchall()),
        parents=tuple(
            connection.execute(
                "select name, edges.kind from edges join models on parent_id = model_id where child_id = ?", [model_id]
            ).fetchall()
        ),
        recipe=recipe_of(connection, model_id),
    )


def recipe_of(connection: Connection, model_id: int) -> dict[str, Any] | None:
    """How a model was made, if the catalog knows."""
    found = connection.execute("select recipe from recipes join models using (recipe_id) where model_id = ?", [model_id]).fetchall()
    return dict(json.loads(found[0][0])) if found else None


def tensors_of(connection: Connection, occurrences: pa.Table) -> pa.Table:
    """Join occurrences with their tensors; the ids go in as a list, for which DuckDB skips row groups, as it does not for a join."""
    ids = sorted(set(occurrences["tensor_id"].to_pylist()))
    connection.register("occurrences", occurrences)
    listed = ", ".join(map(str, ids)) or "null"
    joined = arrow(
        connection,
        "select position, name, alias_of, t.* exclude (hash), lower(hex(hash)) as hash"
        f" from occurrences join (select * from tensors where tensor_id in ({listed})) as t using (tensor_id) order by position",
    )
    connection.unregister("occurrences")
    return joined


def duplicates(connection: Connection, *, tensors: bool = False) -> pa.Table:
    """Exact duplicates with the bytes that they cost: models that lie in several places, or tensors that stand in several models."""
    view = "shared_tensors" if tensors else "duplicate_models"
    return arrow(connection, f"select * from {view} order by wasted_bytes desc, 1")


def detail_beside(path: str, detail: str) -> str:
    """What was wrong with a file, without its path, where that stands beside."""
    return detail.partition(f"{path}: ")[2] or detail


def quarantined(connection: Connection, where: str | None = None, order_by: str | None = None, limit: int | None = None) -> pa.Table:
    """What was refused, and what was catalogued although it is not finite: path, reason, detail, advice."""
    source = """(
        select path, reason, detail, advice from quarantine
        union all
        select any_value(first.path), 'non-finite',
               any_value(models.name) || ': ' || sum(num_nan) || ' NaN and ' || sum(num_inf) || ' infinite elements in ' || count(*)
               || ' tensors, first in ' || arg_min(model_tensors.name, position),
               'it is catalogued and flagged (is_finite is false); look at the training, or take an earlier step'
        from models join model_tensors using (model_id) join tensors using (tensor_id)
             join (select model_id, arg_min(path, file_id) as path from files group by model_id) as first using (model_id)
        where not is_finite and (num_nan > 0 or num_inf > 0) group by models.model_id
    )"""
    return _filtered(connection, source, where, order_by or "path", limit)


def tables(connection: Connection) -> pa.Table:
    """The documentation of the catalog: every table and view, every column with its type and what it means."""
    return arrow(
        connection,
        """
        select c.table_name as "table", c.column_name as "column", c.data_type as type, coalesce(c.comment, '') as meaning,
               coalesce(t.comment, v.comment, '') as table_meaning
        from duckdb_columns() c left join duckdb_tables() t using (table_name) left join duckdb_views() v on v.view_name = c.table_name
        where not c.internal order by v.view_name is not null, c.table_name, c.column_index
        """,
    )


def where_tags(tags: dict[str, str | None]) -> str:
    """An SQL condition on `model_table`: models that carry all these tags, with these values where one is given."""
    return " and ".join(
        f"model_id in (select model_id from tags where key = {quoted(key)}{'' if value is None else f' and value = {quoted(value)}'})"
        for key, value in tags.items()
    )
