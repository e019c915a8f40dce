"""What a catalog knows that nobody else is told: where runs lie on this machine."""

import re
from collections.abc import Mapping

import duckdb
import pyarrow as pa
from blake3 import blake3

_PLACE = re.compile(r"(?P<source>[a-z-]+):(?=/|[A-Za-z]:[\\/])")
"""The beginning of a run's key that goes on with a path."""


def told(key: str | None) -> str | None:
    """A run's key as it is pushed: where it names a path of this machine, a digest in its place, the same for the same path.

    Example:
        >>> told("population:digits/3")
        'population:digits/3'
        >>> told("folder:/home/me/runs/3") == told("folder:/home/me/runs/3") != "folder:/home/me/runs/3"
        True
    """
    found = _PLACE.match(key) if key is not None else None
    if key is None or found is None:
        return key
    return f"{found['source']}:#{blake3(key.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"


def without_places(tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Tables without the places where models and runs lie on this machine."""
    made = dict(tables)
    for name, column in (("runs", "key"), ("files", "run"), ("metrics", "run")):
        made[name] = _with(made[name], column, [told(key) for key in made[name][column].to_pylist()])
    paths = [path if path.startswith("hf:") else "" for path in made["files"]["path"].to_pylist()]
    return made | {"files": _with(made["files"], "path", paths)}


def known_runs(connection: duckdb.DuckDBPyConnection, tables: Mapping[str, pa.Table]) -> dict[str, pa.Table]:
    """Tables that came, with the keys of runs that this catalog has as it has them: whoever pushed may pull again."""
    here = {told(key): key for (key,) in connection.execute("select key from runs where key is not null").fetchall()}
    made = dict(tables)
    for name, column in (("runs", "key"), ("files", "run"), ("metrics", "run")):
        if name in made and column in made[name].column_names:
            made[name] = _with(made[name], column, [here.get(key, key) for key in made[name][column].to_pylist()])
    return made


def _with(table: pa.Table, column: str, values: list[str | None]) -> pa.Table:
    return table.set_column(table.schema.get_field_index(column), column, pa.array(values, pa.string()))


__all__ = ["known_runs", "told", "without_places"]
