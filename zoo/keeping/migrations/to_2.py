"""Version 2: a catalog knows which zoo it is of, so that no backup takes the place of another zoo's."""

import secrets

import duckdb

from weightspace.zoo.keeping.migrations import migration


@migration(2, is_readable=True)
def name_the_zoo(connection: duckdb.DuckDBPyConnection) -> None:
    """Give the zoo an identity of its own; it stays through copies, backups and restores."""
    connection.execute("insert into meta select 'zoo_id', ? where 'zoo_id' not in (select key from meta)", [secrets.token_hex(16)])
