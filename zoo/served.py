"""A catalog that another process serves: DuckDB's own protocol, Quack, with one session of the server a question or a transaction."""

import contextlib
import importlib.util
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import duckdb
import pyarrow as pa

from weightspace.errors import CatalogError, one_line
from weightspace.zoo.catalog import SCHEMA_VERSION, Catalog
from weightspace.zoo.literals import identifier, quoted

TOKEN = "WEIGHTSPACE_TOKEN"
"""The environment variable that holds what server and clients share; it is sent, never stored or printed."""

NONCE = "served"
"""The file in a zoo's house by which a client sees that a folder is the one that is served."""

_ADDRESS = re.compile(r"quack:(?P<server>(?:[\w.-]+|\[[0-9a-fA-F:.]+\])(?::\d{1,5})?)(?P<folder>/.*)?")
_OUTSIDE_TEXT = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|\?""")
_ROWS = 20_000  # rows of a table that are sent in one statement
_ABSENT = 5.0  # seconds that a server may be away, which makes room for a writer beside it
_BUSY = 60.0  # seconds to wait for another client that writes


def is_served(place: str | Path | None) -> bool:
    """Whether the place of a zoo is the address of a server."""
    return place is not None and str(place).startswith("quack:")


def load_quack(connection: duckdb.DuckDBPyConnection) -> None:
    """Load the extension that speaks the protocol, from where DuckDB keeps extensions or from its Python package.

    Raises:
        CatalogError: it is not installed for this DuckDB.
    """
    for name in ("httpfs", "quack"):  # the first carries the requests of the second
        found = importlib.util.find_spec(f"duckdb_extension_{name}")
        places = list(found.submodule_search_locations or ()) if found else []
        file = Path(*places[:1], "extensions", f"v{duckdb.__version__}", f"{name}.duckdb_extension")
        try:
            connection.execute(f"load {quoted(str(file)) if places and file.exists() else name}")
        except duckdb.Error:
            if name == "quack":
                raise CatalogError(
                    f"a served catalog needs the extension 'quack', which DuckDB {duckdb.__version__} does not have here; where there is a network, "
                    f"install it with: python -c \"import duckdb; duckdb.sql('install httpfs; install quack')\""
                ) from None


def token() -> str:
    """What server and clients share.

    Raises:
        CatalogError: it is not set, or so short that it can be guessed.
    """
    said = os.environ.get(TOKEN, "")
    if len(said) < 16:
        raise CatalogError(
            f"{TOKEN} is {'too short' if said else 'not set'}; set it to the same secret of at least 16 characters where a catalog is served and where it is used"
        )
    return said


@dataclass(frozen=True)
class ServedCatalog(Catalog):
    """The catalog behind an address `quack:host[:port][/folder]`; the server sees to its file and to its locks.

    Attributes:
        home: the zoo's `.weightspace` as this machine sees it: in the folder of the address, else where the server has it.
        server: host and port.
        is_writable: whether the server takes writes.
        nonce: what the file `served` in the home holds, where the server takes writes.
    """

    server: str
    is_writable: bool
    nonce: str

    @classmethod
    def at(cls, address: str) -> "ServedCatalog":
        """Ask a server what it serves.

        Raises:
            CatalogError: the address is none, nobody serves there, the token is not the server's, or the catalog is of another version.
        """
        read = _ADDRESS.fullmatch(address)
        if read is None:
            raise CatalogError(
                f"'{one_line(address, 120)}' is no address of a served catalog; write quack:HOST:PORT or quack:HOST:PORT/FOLDER"
            )
        asked = cls(Path("/"), read["server"], False, "")
        with asked.reading() as connection:
            [(folder, is_writable, nonce)] = connection.execute("from memory.main.place()").fetchall()
            [(version,)] = connection.execute("select value from meta where key = 'schema_version'").fetchall()
        if version != str(SCHEMA_VERSION):
            raise CatalogError(
                f"quack:{read['server']}: has schema version {version}, expected {SCHEMA_VERSION}; use the same weightspace on both sides"
            )
        return cls(Path(read["folder"] or folder) / ".weightspace", read["server"], is_writable, nonce)

    @property
    def path(self) -> Path:
        """The address: the file itself is the server's."""
        return Path(f"quack:{self.server}")

    def exists(self) -> bool:
        """Whether there is a catalog, which a server sees to."""
        return True

    def create(self) -> None:
        """See that files can be put beside the catalog: what is added has to lie where the server's other clients find it.

        Raises:
            CatalogError: the server takes no writes, or the zoo's folder is not reachable here.
        """
        self._expect_writable()
        try:
            is_same = (self.home / NONCE).read_text("ascii") == self.nonce
        except (OSError, UnicodeDecodeError):
            is_same = False
        if not is_same:
            raise CatalogError(
                f"quack:{self.server}: the folder of this zoo, {one_line(str(self.home.parent))}, is not reachable here; "
                f"mount it, and name it as in quack:{self.server}/mnt/zoo"
            )

    @contextlib.contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a session of the server that reads; see `Catalog.reading`."""
        with self._plain(), self._session() as session:
            session.execute("begin transaction read only")
            yield cast(duckdb.DuckDBPyConnection, session)

    @contextlib.contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a session of the server for one transaction; clients that write wait for each other. See `Catalog.writing`."""
        self._expect_writable()
        with self._plain(), self._session() as session:
            _begin(session, self.server)
            yield cast(duckdb.DuckDBPyConnection, session)
            session.execute("commit")

    def _expect_writable(self) -> None:
        if not self.is_writable:
            raise CatalogError(
                f"quack:{self.server}: serves its catalog for reading alone; start it with 'weightspace serve --write' to change it"
            )

    @contextlib.contextmanager
    def _plain(self) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise CatalogError(f"quack:{self.server}: {_explained(error)}") from None
        except RuntimeError as error:
            if str(error) == "Query interrupted":  # what DuckDB makes of Ctrl-C
                raise KeyboardInterrupt from None
            raise

    @contextlib.contextmanager
    def _session(self) -> Iterator["_Session"]:
        with duckdb.connect(config={"autoinstall_known_extensions": "false"}) as local:
            load_quack(local)
            attach = f"attach {quoted(f'quack:{self.server}')} as remote (token {quoted(token())})"
            deadline = time.monotonic() + _ABSENT
            while True:
                try:
                    local.execute(attach)
                    break
                except duckdb.Error as error:
                    if "Could not connect" not in str(error) or time.monotonic() > deadline:
                        raise
                time.sleep(0.05)
            session = _Session(local)
            session.execute("use zoo")
            try:
                yield session
            finally:
                # The server keeps a session for longer than its client lives: nothing may stay open in it.
                with contextlib.suppress(duckdb.Error):
                    session.execute("rollback")


def _explained(error: duckdb.Error) -> str:
    """Say what went wrong between client and server in one line, without the token."""
    said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if "Could not connect" in said:
        return "nobody serves a catalog there; start it with 'weightspace serve' on that machine, or correct the address"
    if "Authentication failed" in said:
        return f"refuses the token; set {TOKEN} to the one that the server was started with"
    said = re.sub(r"^(?:\w+ )+Error: ", "", said).replace(os.environ.get(TOKEN) or "\0", "...")
    return f"{one_line(said, 300)}; 'weightspace sql --tables' lists tables and columns"


def _begin(session: "_Session", server: str) -> None:
    """Begin a transaction that no other client's overlaps: all of them change one row, which DuckDB lets only one do at a time."""
    deadline = time.monotonic() + _BUSY
    while True:
        session.execute("begin")
        try:
            session.execute("update meta set value = uuid()::varchar where key = 'writer'")
            return
        except duckdb.Error as error:
            session.execute("rollback")
            if "Conflict" not in str(error):
                raise
            if time.monotonic() > deadline:
                raise CatalogError(
                    f"quack:{server}: another client has been writing for {_BUSY:.0f} seconds; wait for it, or, if it was killed, start the server again"
                ) from None
        time.sleep(0.02)


class _Session:
    """What the zoo uses of a connection, done by the server: statements with parameters, and tables that are registered."""

    def __init__(self, local: duckdb.DuckDBPyConnection) -> None:
        self._local = local

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """It stands in for DuckDB's connection, which cannot be derived from, wherever one is asked for."""
        return duckdb.DuckDBPyConnection

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> duckdb.DuckDBPyConnection:
        """Run a statement on the server; what it gave is fetched from the result."""
        return self._local.execute("from remote.query(?)", [_filled(statement, parameters)])

    def sql(self, statement: str, *, params: Sequence[Any] = ()) -> duckdb.DuckDBPyRelation:
        """Run a query on the server; what it gives becomes an Arrow table without a copy."""
        return self._local.sql("from remote.query(?)", params=[_filled(statement, params)])

    def extract_statements(self, statement: str) -> list[Any]:
        """Take SQL apart, here."""
        return self._local.extract_statements(statement)

    def register(self, name: str, table: pa.Table) -> None:
        """Send a table, which the session then has under this name: as JSON, which holds all types of the catalog but bytes."""
        self._local.register("sent", table)
        columns = self._local.execute("select column_name, column_type from (describe sent)").fetchall()
        texts = ", ".join(f"hex({identifier(column)}) as {identifier(column)}" for column, kind in columns if kind == "BLOB")
        blobs = ", ".join(f"unhex({identifier(column)}) as {identifier(column)}" for column, kind in columns if kind == "BLOB")
        kinds = json.dumps([{column: "VARCHAR" if kind == "BLOB" else kind for column, kind in columns}])
        for start in range(0, max(table.num_rows, 1), _ROWS):
            batch = f"select *{f' replace ({texts})' if texts else ''} from sent limit {_ROWS} offset {start}"
            [(rows,)] = self._local.execute(f"select coalesce(to_json(list(batch)), '[]')::varchar from ({batch}) as batch").fetchall()
            got = f"select r.* from (select unnest(from_json({quoted(rows)}, {quoted(kinds)})) as r)"
            made = f"insert into {name}" if start else f"create or replace temp table {name} as"
            self.execute(f"{made} select *{f' replace ({blobs})' if blobs else ''} from ({got})")
        self._local.unregister("sent")

    def unregister(self, name: str) -> None:
        """Forget a table that was sent."""
        self.execute(f"drop table if exists temp.main.{name}")


def _filled(statement: str, parameters: Sequence[Any]) -> str:
    """Write parameters into a statement: the protocol carries text alone."""
    values = iter(parameters)
    return _OUTSIDE_TEXT.sub(lambda found: _literal(next(values)) if found[0] == "?" else found[0], statement)


def _literal(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool | int):
        return str(value).lower()
    if isinstance(value, float):
        return f"'{value!r}'::double"
    if isinstance(value, bytes):
        return f"unhex('{value.hex()}')"
    if isinstance(value, datetime):
        return f"'{value.isoformat(sep=' ')}'::timestamp"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping) or not isinstance(value, Sequence):
        raise CatalogError(
            f"a served catalog takes no parameter of type {type(value).__name__}; give text, numbers, bytes, times or lists of these"
        )
    return f"[{', '.join(map(_literal, value))}]"


__all__ = ["NONCE", "TOKEN", "ServedCatalog", "is_served", "load_quack", "token"]
