"""Results of measures on their way into the catalog: gathered for some seconds, then written together."""

import time
from collections.abc import Mapping, Sequence
from types import TracebackType

import pyarrow as pa

from weightspace.zoo.catalog import Catalog
from weightspace.zoo.write import Connection

FLUSH_SECONDS = 2.0  # between writes

Filed = tuple[str, str, str]
"""What results are filed under: the measure's name, its version, and its parameters as canonical JSON."""

Values = Mapping[str, float | str | None]
Row = tuple[tuple[int, ...], Filed, str, float | str | None]
"""What a value is of (numbers of models or tensors), what it is filed under, its key, and itself."""


class Pending:
    """Gathers results and writes them every few seconds, and what is left when its block ends, however that is.

    Args:
        catalog: that they are kept in.
        columns: what they are of: `model_id`, `a_id` and `b_id`, or `tensor_id`.
    """

    def __init__(self, catalog: Catalog, *columns: str) -> None:
        self._catalog, self._columns = catalog, columns
        self._rows: list[Row] = []
        self._written = time.monotonic()

    def add(self, of: tuple[int, ...], filed: Filed, values: Values) -> None:
        """Take in all values of one model, pair or tensor."""
        self._rows += [(of, filed, key, value) for key, value in values.items()]
        if time.monotonic() - self._written > FLUSH_SECONDS:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            with self._catalog.writing() as connection:
                write(connection, self._columns, self._rows)
            self._rows = []
        self._written = time.monotonic()

    def __enter__(self) -> "Pending":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._flush()


def write(connection: Connection, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write results; those of a process that measured the same meanwhile are replaced."""
    table = "pair_measurements" if len(columns) == 2 else "measurements"
    made = {column: pa.array([of[place] for of, _, _, _ in rows], pa.int64()) for place, column in enumerate(columns)}
    for place, column in enumerate(("measure", "version", "parameters")):
        made[column] = pa.array([filed[place] for _, filed, _, _ in rows], pa.string())
    made["key"] = pa.array([key for _, _, key, _ in rows], pa.string())
    made["value"] = pa.array([None if isinstance(value, str) else value for *_, value in rows], pa.float64())
    if table == "measurements":
        made["text"] = pa.array([value if isinstance(value, str) else None for *_, value in rows], pa.string())
    connection.register("fresh", pa.table(made))
    same = " and ".join(f"{table}.{column} = fresh.{column}" for column in (*columns, "measure", "version", "parameters"))
    of_models = " and tensor_id is null" if "model_id" in columns else ""
    connection.execute(f"delete from {table} using fresh where {same}{of_models}")
    connection.execute(f"insert into {table} by name select * from fresh")
    connection.unregister("fresh")
