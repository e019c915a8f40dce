"""The catalog file: one DuckDB database behind a lock file, so that any number of processes can read and write it."""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

from weightspace.errors import CatalogError
from weightspace.zoo.literals import quoted
from weightspace.zoo.model_table import refresh_model_table

SCHEMA_VERSION = "1"
_READ_CONFIG = {"enable_external_access": "false", "lock_configuration": "true"}
_WAIT = 600.0  # seconds to wait for other processes before giving up
_COMMENT = re.compile(r"^\s*(?:create (?P<what>table|view) )?(?P<name>\w+)\s.*?--\s*(?P<text>.+?)\s*$")


@dataclass(frozen=True)
class Catalog:
    """The catalog of the zoo whose house is `home` (a `.weightspace` folder).

    A DuckDB process that writes excludes every other, readers too. So a lock file is taken before the database is
    opened: readers share it, a writer has it alone, and connections are short. A writer that waits closes a gate behind
    which new readers queue, so that a stream of readers cannot starve it.
    """

    home: Path

    @property
    def path(self) -> Path:
        """The DuckDB file."""
        return self.home / "catalog.duckdb"

    def exists(self) -> bool:
        """Whether the catalog has been created."""
        return self.path.exists()

    def create(self) -> None:
        """Make the folder and an empty catalog in it, if there is none."""
        if self.exists():
            return
        try:
            self.home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CatalogError(f"{self.home}: cannot be created ({error.strerror}); choose another folder with --zoo") from None
        with self._locked(exclusive=True):
            if self.exists():
                return
            # Built aside and renamed, so that a catalog that exists is a whole one.
            fresh = self.home / f"catalog.{os.getpid()}.new"
            fresh.unlink(missing_ok=True)
            with duckdb.connect(str(fresh)) as connection:
                connection.execute("begin")
                connection.execute(schema())
                for statement in _comments(schema()):
                    connection.execute(statement)
                connection.execute("insert into meta values ('schema_version', ?)", [SCHEMA_VERSION])
                refresh_model_table(connection)
                connection.execute("commit")
            fresh.with_suffix(".new.wal").unlink(missing_ok=True)
            fresh.replace(self.path)

    @contextlib.contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the catalog for reading: no writes, no other files, no extensions. Do not nest with `writing`.

        Raises:
            CatalogError: there is no catalog, it is damaged, of another version, or a writer held it too long.
        """
        self._expect()
        with self._locked(exclusive=False), self._connected(read_only=True) as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the catalog for one transaction: committed at the end of the block, rolled back if the block raises."""
        self._expect()
        with self._locked(exclusive=True), self._connected(read_only=False) as connection:
            connection.execute("begin")
            try:
                yield connection
            except BaseException:
                connection.execute("rollback")
                raise
            connection.execute("commit")

    def _expect(self) -> None:
        if not self.exists():
            raise CatalogError(
                f"{self.home.parent}: has no zoo yet; run 'weightspace init' or 'weightspace ingest PATH' there, or name one with --zoo"
            )

    @contextlib.contextmanager
    def _connected(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        config: dict[str, Any] = dict(_READ_CONFIG) if read_only else {"memory_limit": "2GB"}
        try:
            connection = duckdb.connect(str(self.path), read_only=read_only, config=config)
        except duckdb.Error as error:
            raise CatalogError(
                f"{self.path}: cannot be opened ({str(error).splitlines()[0]}); restore it from a backup, or remove it and ingest again"
            ) from None
        with connection:
            version = connection.execute("select value from meta where key = 'schema_version'").fetchall()
            if version != [(SCHEMA_VERSION,)]:
                found = version[0][0] if version else "none"
                raise CatalogError(f"{self.path}: has schema version {found}, expected {SCHEMA_VERSION}; use the weightspace that wrote it")
            yield connection

    @contextlib.contextmanager
    def _locked(self, *, exclusive: bool) -> Iterator[None]:
        try:
            gate = (self.home / "gate").open("a")
            lock = (self.home / "lock").open("a")
        except OSError as error:
            raise CatalogError(f"{self.home}: cannot take its lock ({error.strerror}); check the folder's permissions") from None
        with gate, lock:
            kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            deadline = time.monotonic() + _WAIT
            _take(gate.fileno(), fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH, deadline, self.home)
            _take(lock.fileno(), kind, deadline, self.home)
            fcntl.flock(gate, fcntl.LOCK_UN)
            yield


def _take(descriptor: int, kind: int, deadline: float, home: Path) -> None:
    """Take a lock; polling keeps Ctrl-C working and gives up in the end with a message instead of hanging."""
    pause = 0.001
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise CatalogError(
                    f"{home}: another process has held its lock for {_WAIT:.0f} seconds; wait for it, or end it, and try again"
                ) from None
            time.sleep(pause)
            pause = min(pause * 1.5, 0.02)


def schema() -> str:
    """The SQL that makes an empty catalog."""
    return resources.files("weightspace.zoo").joinpath("schema.sql").read_text("utf-8")


def _comments(sql: str) -> Iterator[str]:
    """Turn the comments of the schema into COMMENT ON statements, so that the database documents itself."""
    inside: tuple[str, str] | None = None
    for line in sql.splitlines():
        if line.startswith("--"):
            continue
        found = _COMMENT.match(line)
        if found and found["what"]:
            inside = found["what"], found["name"]
            yield f"comment on {found['what']} {found['name']} is {quoted(found['text'])}"
        elif found and inside and inside[0] == "table":
            yield f"comment on column {inside[1]}.{found['name']} is {quoted(found['text'])}"
