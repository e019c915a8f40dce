"""Published claims that were tried, as the catalog keeps them: a row a finding, those of a claim together."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from weightspace.zoo.write import Connection

SCHEMA = pa.schema(
    {
        "claim": pa.string(), "statement": pa.string(), "source": pa.string(), "topic": pa.string(), "verdict": pa.string(),
        "position": pa.int32(), "quantity": pa.string(), "value": pa.float64(), "interval": pa.float64(), "baseline": pa.float64(),
        "baseline_interval": pa.float64(), "against": pa.string(), "bar": pa.string(), "held": pa.bool_(), "seeds": pa.int32(),
        "seconds": pa.float64(), "version": pa.string(), "tried": pa.timestamp("us"),
    }
)  # fmt: skip


def write_claims(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep findings; those of an earlier try of the same claim go."""
    connection.register("fresh", pa.Table.from_pylist(list(rows), SCHEMA))
    connection.execute("delete from claims where claim in (select claim from fresh)")
    connection.execute("insert into claims by name select * from fresh")
    connection.unregister("fresh")


def read_claims(connection: Connection) -> pa.Table:
    """All findings, by claim and in their order; none in a catalog from before there were any."""
    if not connection.execute("select 1 from duckdb_tables() where table_name = 'claims'").fetchall():
        return SCHEMA.empty_table()
    return connection.sql("select * from claims order by claim, position").to_arrow_table()
