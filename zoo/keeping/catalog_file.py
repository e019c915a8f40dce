"""The catalog as a file: whether all of it can be read, and whether its tables and views are those of the schema."""

import re
import secrets
from collections.abc import Iterator
from functools import lru_cache

import duckdb

from weightspace.errors import one_line
from weightspace.zoo.catalog import SCHEMA_VERSION, schema
from weightspace.zoo.keeping.findings import Finding
from weightspace.zoo.keeping.migrations import version_of
from weightspace.zoo.literals import identifier
from weightspace.zoo.model_table import model_table_statements
from weightspace.zoo.write import Connection

RESTORE = "restore the catalog from a backup, or move it away and ingest again"
_MACRO = "select macro_definition from duckdb_functions() where function_name = 'model_rows'"
_VIEWS = "select view_name, sql from duckdb_views() where not internal"
_COLUMNS = "select table_name, column_name, data_type from duckdb_columns() where not internal and table_name in (select table_name from duckdb_tables())"


def unreadable(connection: Connection) -> Iterator[Finding]:
    """Read every value of every table, whose blocks DuckDB checks against their checksums only when they are read."""
    tables = [name for (name,) in connection.execute("select table_name from duckdb_tables() where not internal order by 1").fetchall()]
    for table in tables:
        try:
            connection.execute(f"select bit_xor(hash(t)) from {identifier(table)} t").fetchall()
        except duckdb.Error as error:
            said = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            yield Finding("catalog", f"table '{table}' cannot be read ({one_line(said, 160)})", "catalog.duckdb", RESTORE)
            if isinstance(error, duckdb.FatalException | duckdb.InternalException):
                return


def misshapen(connection: Connection) -> Iterator[Finding]:
    """Compare tables, columns and views with what the schema makes; a catalog of an older version that can be read is let be."""
    if version_of(connection) != str(SCHEMA_VERSION):
        return
    [(zoo_id,)] = connection.execute(
        "select count(*) from meta where key = 'zoo_id' and regexp_matches(value, '^[0-9a-f]{32}$')"
    ).fetchall()
    if zoo_id == 0:
        yield Finding("schema", "the zoo has no identity of its own", "meta: zoo_id", "it can get one", True)
    wanted = _expected_columns()
    there = {(table, column): kind for table, column, kind in connection.execute(_COLUMNS).fetchall()}
    for table, column, kind in wanted:
        found = there.get((table, column))
        if found != kind:
            what = f"is {found}, expected {kind}" if found else f"is missing, expected {kind}"
            yield Finding("schema", f"column {what}", f"{table}.{column}", RESTORE)
    if any(table == "metrics" and (table, column) not in there for table, column, _ in wanted):
        return
    views, macro = _expected_views(model_table_statements(connection))
    found_views = dict(connection.execute(_VIEWS).fetchall())
    for name, sql in views:
        if found_views.get(name) != sql:
            what = "is missing" if name not in found_views else "is not in step with the tables"
            yield Finding("views", what, f"view {name}", "it can be made anew", True)
    if connection.execute(_MACRO).fetchall() != macro:
        yield Finding("views", "is missing, or not in step with the tables", "macro model_rows", "it can be made anew", True)


@lru_cache(maxsize=1)
def _expected_columns() -> list[tuple[str, str, str]]:
    """Table, column and type of all that the schema makes."""
    with duckdb.connect() as fresh:
        fresh.execute(schema())
        return fresh.execute(_COLUMNS).fetchall()


@lru_cache(maxsize=4)
def _expected_views(statements: tuple[str, ...]) -> tuple[list[tuple[str, str]], list[tuple[str]]]:
    """Views as DuckDB spells them, and the macro, when these statements have made those that hang on the metrics there are."""
    with duckdb.connect() as fresh:
        fresh.execute(schema())
        for statement in statements:
            fresh.execute(statement)
        return fresh.execute(_VIEWS).fetchall(), fresh.execute(_MACRO).fetchall()


def reshape(connection: Connection) -> None:
    """Make the views of the schema anew, and give the zoo an identity where it has none."""
    for statement in re.sub(r"--[^\n]*", "", schema()).split(";"):
        at = statement.find("create view ")
        if at >= 0:
            connection.execute("create or replace view " + statement[at + len("create view ") :])
    for statement in model_table_statements(connection):
        connection.execute(statement)
    connection.execute("delete from meta where key = 'zoo_id' and not regexp_matches(coalesce(value, ''), '^[0-9a-f]{32}$')")
    connection.execute("insert into meta select 'zoo_id', ? where 'zoo_id' not in (select key from meta)", [secrets.token_hex(16)])
