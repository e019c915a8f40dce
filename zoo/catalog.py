"""The catalog file: one DuckDB database behind a lock file, so that any number of processes can read and write it."""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import IO, Any

import duckdb

from weightspace import __version__
from weightspace.errors import CatalogError
from weightspace.zoo.keeping.migrations import Migration, migrate, migrations, pending, version_of
from weightspace.zoo.literals import quoted
from weightspace.zoo.model_table import refresh_model_table

SCHEMA_VERSION = 3
_READ_CONFIG = {"enable_external_access": "false", "autoinstall_known_extensions": "false", "lock_configuration": "true"}
_WAIT = 600.0  # seconds to wait for other processes before giving up
_FOREIGN_WAIT = 5.0  # the same for somebody who opened the file without the lock, such as DuckDB's own shell
_FOREIGN = re.compile(r"Could not set lock on file(?:.*\(PID (?P<pid>\d+)\))?|different configuration than existing", re.DOTALL)
_COMMENT = re.compile(r"^\s*(?:create (?P<what>table|view) )?(?P<name>\w+)\s.*?--\s*(?P<text>.+?)\s*$")


class _Held(threading.local):
    """Catalogs that this thread has open: whether for writing, by process and folder; a fork inherits this but holds nothing."""

    def __init__(self) -> None:
        self.catalogs: dict[tuple[int, str], bool] = {}


_held = _Held()


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
        with self._plain(), self._locked(exclusive=True):
            for stale in self.home.glob("catalog.*.new*"):
                stale.unlink(missing_ok=True)  # of a process that was killed here: only one at a time gets here
            if self.exists():
                return
            # Built aside and renamed, so that a catalog that exists is a whole one.
            fresh = self.home / f"catalog.{os.getpid()}.new"
            try:
                with duckdb.connect(str(fresh)) as connection:
                    connection.execute("begin")
                    connection.execute(schema())
                    for statement in _comments(schema()):
                        connection.execute(statement)
                    said = [str(SCHEMA_VERSION), __version__, secrets.token_hex(16)]
                    connection.execute("insert into meta values ('schema_version', ?), ('created_with', ?), ('zoo_id', ?)", said)
                    refresh_model_table(connection)
                    connection.execute("commit")
                    connection.execute("checkpoint")  # closing does it too, but without a word when the disk is full
                fresh.replace(self.path)
            finally:
                fresh.unlink(missing_ok=True)
                fresh.with_suffix(".new.wal").unlink(missing_ok=True)

    @contextlib.contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the catalog for reading: no writes, no other files, no extensions. It may be nested, but not with `writing`.

        Raises:
            CatalogError: there is no catalog, it is damaged, of another version, or a writer held it too long.
        """
        self._expect()
        with self._plain(), self._locked(exclusive=False), self._connected(read_only=True) as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open the catalog for one transaction: committed at the end of the block, rolled back if the block raises.

        Raises:
            CatalogError: as for `reading`, and when the disk is full or the folder is read-only; nothing is written then.
        """
        self._expect()
        with self._plain(), self._locked(exclusive=True), self._connected(read_only=False) as connection:
            connection.execute("begin")
            try:
                yield connection
                connection.execute("commit")
            except BaseException:
                # After a failed commit there is nothing to roll back, and DuckDB says so.
                with contextlib.suppress(duckdb.Error):
                    connection.execute("rollback")
                raise

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock as a writer does, without opening the file: for what takes its place."""
        with self._plain(), self._locked(exclusive=True):
            yield

    def _expect(self) -> None:
        if not self.exists():
            raise CatalogError(
                f"{self.home.parent}: has no zoo yet; run 'weightspace init' or 'weightspace ingest PATH' there, or name one with --zoo"
            )

    @contextlib.contextmanager
    def _plain(self) -> Iterator[None]:
        """Turn what DuckDB raises into one line."""
        try:
            yield
        except duckdb.Error as error:
            raise CatalogError(
                f"{self.path}: {_first_line(error)}; {_advice(error) or 'try again; if it goes on, restore it from a backup'}"
            ) from None
        except RuntimeError as error:
            if str(error) == "Query interrupted":  # what DuckDB makes of Ctrl-C
                raise KeyboardInterrupt from None
            raise

    @contextlib.contextmanager
    def _connected(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._opened(read_only) as connection:
            steps = self._steps(connection)
            if not steps or (read_only and all(step.is_readable for step in steps)):
                yield connection
                return
        if read_only:
            raise CatalogError(
                f"{self.path}: has schema version {steps[0].version - 1}, this weightspace reads {SCHEMA_VERSION}; "
                "'weightspace check --quick --repair' brings it forward, and keeps a copy of what it was"
            )
        self._bring_forward(steps)
        with self._opened(read_only) as connection:
            yield connection

    def _steps(self, connection: duckdb.DuckDBPyConnection) -> list[Migration]:
        """What is to be done to bring an older catalog to this version.

        Raises:
            CatalogError: it is newer, or has no version at all.
        """
        version = version_of(connection)
        steps = pending(version, SCHEMA_VERSION, migrations())
        if steps is None:
            raise CatalogError(f"{self.path}: has schema version {version}, expected {SCHEMA_VERSION}; use the weightspace that wrote it")
        return steps

    def _bring_forward(self, steps: list[Migration]) -> None:
        """Migrate in one transaction; a copy of what was there stays beside it, under the name of its version."""
        kept = self.home / f"catalog.version-{steps[0].version - 1}.duckdb"
        with self._opened(False) as connection:
            connection.execute("checkpoint")  # so that the file alone is all of it
        fresh = kept.with_suffix(".new")
        try:
            shutil.copyfile(self.path, fresh)
            fresh.replace(kept)
        except OSError as error:
            raise CatalogError(
                f"{kept}: cannot be written ({error.strerror}), so the catalog stays at schema version {steps[0].version - 1}; "
                "check the folder, its permissions and the free space"
            ) from None
        finally:
            fresh.unlink(missing_ok=True)
        with self._opened(False) as connection:
            connection.execute("begin")
            try:
                migrate(connection, steps)
                for statement in _comments(schema()):
                    connection.execute(statement)
                refresh_model_table(connection)
                connection.execute("commit")
            except BaseException:
                with contextlib.suppress(duckdb.Error):
                    connection.execute("rollback")
                raise
            connection.execute("checkpoint")

    def _opened(self, read_only: bool) -> duckdb.DuckDBPyConnection:
        config: dict[str, Any] = dict(_READ_CONFIG) if read_only else {"memory_limit": "2GB"}
        deadline = time.monotonic() + _FOREIGN_WAIT
        while True:
            try:
                return duckdb.connect(str(self.path), read_only=read_only, config=config)
            except duckdb.Error as error:
                foreign = _FOREIGN.search(str(error))
                if not foreign:
                    raise CatalogError(
                        f"{self.path}: cannot be opened ({_first_line(error)}); {_advice(error) or 'restore it from a backup, or remove it and ingest again'}"
                    ) from None
                if time.monotonic() > deadline:
                    who = f"process {foreign['pid']}" if foreign["pid"] else "this process"
                    raise CatalogError(f"{self.path}: {who} has opened it without weightspace; close it there, and try again") from None
            time.sleep(0.02)

    @contextlib.contextmanager
    def _locked(self, *, exclusive: bool) -> Iterator[None]:
        held = _held.catalogs
        key = (os.getpid(), str(self.home))
        if key in held:
            if exclusive or held[key]:
                raise CatalogError(
                    f"{self.home}: this thread has the catalog open already; finish that before writing, or before reading what is being written"
                )
            # The gate must not be waited for here: who holds it may be waiting for this thread's own lock.
            yield
            return
        with self._lock_file("gate", exclusive) as gate, self._lock_file("lock", exclusive) as lock:
            kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
            deadline = time.monotonic() + _WAIT
            _take(gate, kind, deadline, self.home)
            _take(lock, kind, deadline, self.home)
            _release(gate)
            held[key] = exclusive
            try:
                yield
            finally:
                del held[key]
                # Not left to closing: a child that was forked meanwhile has the file open too.
                _release(lock)

    @contextlib.contextmanager
    def _lock_file(self, name: str, exclusive: bool) -> Iterator[IO[bytes] | None]:
        """Open a lock file; None where it is missing in a folder that nobody can write to, and so nobody needs it."""
        path = self.home / name
        file: IO[bytes] | None
        try:
            try:
                file = path.open("a+b")  # for reading too: network file systems want that for a shared lock
            except OSError as error:
                if exclusive or error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
                file = path.open("rb") if path.exists() else None
        except OSError as error:
            raise CatalogError(
                f"{self.home}: cannot take its lock ({error.strerror}); check the folder's permissions and the free space"
            ) from None
        with file or contextlib.nullcontext():
            yield file


def _take(file: IO[bytes] | None, kind: int, deadline: float, home: Path) -> None:
    """Take a lock; polling keeps Ctrl-C working and gives up in the end with a message instead of hanging."""
    pause = 0.001
    while file is not None:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise CatalogError(
                    f"{home}: another process has held its lock for {_WAIT:.0f} seconds; wait for it, or end it, and try again"
                ) from None
        except OSError as error:
            raise CatalogError(f"{home}: its file system has no locks ({error.strerror}); keep the zoo on another one") from None
        time.sleep(pause)
        pause = min(pause * 1.5, 0.02)


def _release(file: IO[bytes] | None) -> None:
    if file is not None:
        fcntl.flock(file, fcntl.LOCK_UN)


def _first_line(error: duckdb.Error) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _advice(error: duckdb.Error) -> str:
    """What to do about an error that kept the catalog from being opened, read or written; empty where only the message tells."""
    said = str(error)
    if any(sign in said for sign in ("No space left", "File too large", "Disk quota")):
        return "the disk is full: free some space and try again; what was in the catalog before is still there"
    if "Permission denied" in said or "Read-only file system" in said:
        return "check its permissions and those of its folder"
    if isinstance(error, duckdb.OutOfMemoryException):
        return "free some memory, or ask for less"
    if isinstance(error, duckdb.ProgrammingError | duckdb.DataError):
        return "'weightspace sql --tables' lists tables and columns"
    return ""


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
