"""Version 3: a catalog keeps what came of published claims that were tried."""

import duckdb

from weightspace.zoo.keeping.migrations import migration


@migration(3, is_readable=True)
def keep_claims(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the table of findings."""
    connection.execute(
        "create table claims (claim VARCHAR, statement VARCHAR, source VARCHAR, topic VARCHAR, verdict VARCHAR, position INTEGER, "
        "quantity VARCHAR, value DOUBLE, interval DOUBLE, baseline DOUBLE, baseline_interval DOUBLE, against VARCHAR, bar VARCHAR, "
        "held BOOLEAN, seeds INTEGER, seconds DOUBLE, version VARCHAR, tried TIMESTAMP)"
    )
