"""SQLite files of others, opened so that nothing in them is changed and nothing hostile in them runs."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from weightspace.errors import RecordError, one_line

MAGIC = b"SQLite format 3\0"
MAX_VALUE = 64 << 20  # bytes of one value or row


def is_sqlite(path: Path) -> bool:
    """Tell by the first bytes."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(16) == MAGIC
    except (OSError, ValueError):
        return False


@contextmanager
def open_sqlite(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database read-only.

    A file without a log is opened as immutable, so that no `-shm` or `-wal` appears beside it; one with a log, which its
    writer left or is still using, must be read together with it.

    Raises:
        RecordError: it cannot be opened or is damaged.
    """
    log = path.with_name(f"{path.name}-wal")
    mode = "mode=ro" if log.is_file() and log.stat().st_size else "mode=ro&immutable=1"
    if mode.endswith("immutable=1"):
        _check_size(path)
    connection = None
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True, timeout=10)
        connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_VALUE)
        connection.execute("pragma trusted_schema=off")
        connection.execute("pragma cell_size_check=on")
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        connection.row_factory = sqlite3.Row
        yield connection
    except sqlite3.Error as error:
        raise RecordError(f"{path}: cannot be read as SQLite ({one_line(str(error), 120)}); copy or export it again") from None
    finally:
        if connection is not None:
            connection.close()


def _check_size(path: Path) -> None:
    """Refuse a file that was cut off: SQLite itself reads the missing end of a last page as zeros."""
    with path.open("rb") as stream:
        head = stream.read(100)
    pages, size = int.from_bytes(head[28:32], "big"), int.from_bytes(head[16:18], "big")
    # The count is only valid when the two change counters agree; page size 1 stands for 65536.
    needed = pages * (65536 if size == 1 else size) if head[24:28] == head[92:96] else 0
    if path.stat().st_size < needed:
        raise RecordError(f"{path}: expected {needed} bytes of SQLite, found {path.stat().st_size}; copy it again")


def columns_of(connection: sqlite3.Connection, table: str) -> frozenset[str]:
    """Names of a real table's columns; none for a view, which could run forever, or a table that is not there."""
    kind = connection.execute("select type from sqlite_master where name = ?", (table,)).fetchall()
    if [row[0] for row in kind] != ["table"]:
        return frozenset()
    return frozenset(row["name"] for row in connection.execute(f'pragma table_info("{table}")'))


def has_tables(path: Path, wanted: Mapping[str, frozenset[str]]) -> bool:
    """Tell whether a file is a database with these tables and columns."""
    if not is_sqlite(path):
        return False
    try:
        with open_sqlite(path) as connection:
            return all(columns <= columns_of(connection, table) for table, columns in wanted.items())
    except RecordError:
        return False
