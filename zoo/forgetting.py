"""Forgetting models: their rows go from every table, and with them what only they stood for; files stay where they lie."""

from collections.abc import Sequence

import duckdb
import pyarrow as pa

from weightspace.zoo.model_table import refresh_model_table

_KEYS = ("model_id", "a_id", "b_id", "parent_id", "child_id")  # columns that name a model, in whatever table


def forget(connection: duckdb.DuckDBPyConnection, models: Sequence[int]) -> None:
    """Drop models and all that was recorded of them: metrics, tags, edges, measurements, embeddings; tensors that stand nowhere else.

    Args:
        connection: an open write transaction.
        models: surrogate ids.
    """
    connection.register("gone", pa.table({"gone_id": pa.array(models, pa.int32())}))
    named = connection.execute(
        """select c.table_name, c.column_name from duckdb_columns() c join duckdb_tables() t using (table_oid)
           where not c.internal and not t.temporary and list_contains(?, c.column_name) and c.table_name <> 'models'""",
        [list(_KEYS)],
    ).fetchall()
    for table, column in [*named, ("models", "model_id")]:
        connection.execute(f"delete from {table} using gone where {table}.{column} = gone_id")
    connection.unregister("gone")
    connection.execute("delete from tensors where tensor_id not in (select tensor_id from model_tensors)")
    connection.execute("delete from measurements where tensor_id is not null and tensor_id not in (select tensor_id from tensors)")
    connection.execute("delete from architectures where architecture_id not in (select architecture_id from models)")
    refresh_model_table(connection)


__all__ = ["forget"]
