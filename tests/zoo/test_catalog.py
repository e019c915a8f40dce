"""The catalog file: creation, locking between processes and threads, versions, damage, and what SQL may do."""

import fcntl
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pytest

from weightspace.errors import CatalogError
from weightspace.zoo import Zoo
from weightspace.zoo.catalog import SCHEMA_VERSION, Catalog


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    made = Catalog(tmp_path / ".weightspace")
    made.create()
    return made


def test_reading_without_a_zoo_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match=r"has no zoo yet; run 'weightspace init'"):
        Zoo(tmp_path).sql("select 1")


def test_a_damaged_catalog_is_one_clear_line(catalog: Catalog) -> None:
    catalog.path.write_bytes(b"not a database" * 1000)
    with pytest.raises(CatalogError, match=r"cannot be opened .* restore it from a backup") as caught, catalog.reading():
        pass
    assert "\n" not in str(caught.value)


def test_another_schema_version_is_refused(catalog: Catalog) -> None:
    with duckdb.connect(str(catalog.path)) as connection:
        connection.execute("update meta set value = '999' where key = 'schema_version'")
    with pytest.raises(CatalogError, match=rf"has schema version 999, expected {SCHEMA_VERSION}; use the"), catalog.reading():
        pass


def test_every_table_and_column_is_documented(catalog: Catalog) -> None:
    with catalog.reading() as connection:
        bare = connection.execute(
            "select table_name, column_name from duckdb_columns() where not internal and comment is null and table_name in (select table_name from duckdb_tables())"
        ).fetchall()
        views = connection.execute("select view_name from duckdb_views() where not internal and comment is null").fetchall()
    assert bare == [] and views == []


@pytest.mark.parametrize(
    "statement",
    [
        "create table t (a int)",
        "insert into meta values ('a', 'b')",
        "drop table models",
        "copy (select 1) to 'stolen.csv'",
        "select * from read_csv('/etc/passwd')",
        "select * from read_text('/etc/passwd')",
        "attach 'other.duckdb'",
        "install httpfs",
        "export database 'stolen'",
        "from glob('/*')",
    ],
)
def test_sql_reads_the_catalog_and_nothing_else(tmp_path: Path, statement: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    zoo = Zoo(tmp_path)
    zoo.create()
    with pytest.raises(CatalogError, match="sql reads the catalog and nothing else"):
        zoo.sql(statement)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".weightspace"]


@pytest.mark.parametrize("statement", ["set enable_external_access = true", "set lock_configuration = false", "pragma enable_profiling"])
def test_sql_cannot_loosen_its_own_bounds(tmp_path: Path, statement: str) -> None:
    zoo = Zoo(tmp_path)
    zoo.create()
    with pytest.raises(CatalogError):
        zoo.sql(statement)


def test_a_wrong_column_gets_the_close_ones_and_where_to_look(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path)
    zoo.create()
    with pytest.raises(CatalogError, match=r"'weightspace sql --tables' lists tables and columns") as caught:
        zoo.sql("select nam from models")
    assert "name" in str(caught.value) and "\n" not in str(caught.value)


def test_a_block_that_raises_leaves_nothing_behind(catalog: Catalog) -> None:
    with pytest.raises(KeyError), catalog.writing() as connection:
        connection.execute("insert into tags values (1, 'a', 'b')")
        raise KeyError
    with catalog.reading() as connection:
        assert connection.execute("select count(*) from tags").fetchall() == [(0,)]


def _hold(home: Path, seconds: float, ready: "multiprocessing.synchronize.Event") -> None:
    with Catalog(home).writing() as connection:
        connection.execute("insert into tags values (1, 'held', 'yes')")
        ready.set()
        time.sleep(seconds)


def test_a_reader_waits_for_a_writer_in_another_process(catalog: Catalog) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(catalog.home, 1.0, ready))
    holder.start()
    assert ready.wait(30)
    started = time.monotonic()
    with catalog.reading() as connection:
        assert connection.execute("select value from tags").fetchall() == [("yes",)]
    holder.join()
    assert time.monotonic() - started > 0.3 and holder.exitcode == 0


def test_a_writer_is_not_starved_by_readers(catalog: Catalog) -> None:
    """Four threads read without a pause; the writer still gets its turn."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                with catalog.reading() as connection:
                    connection.execute("select count(*) from tags").fetchall()
        except BaseException as error:
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        for number in range(3):
            with catalog.writing() as connection:
                connection.execute("insert into tags values (?, 'a', 'b')", [number])
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not failures
    with catalog.reading() as connection:
        assert connection.execute("select count(*) from tags").fetchall() == [(3,)]


def test_a_lock_that_is_never_freed_ends_in_a_message(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightspace.zoo.catalog._WAIT", 0.2)
    with (catalog.home / "lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(CatalogError, match="another process has held its lock"), catalog.reading():
            pass


def test_writing_inside_reading_is_refused_at_once(catalog: Catalog) -> None:
    with catalog.reading(), pytest.raises(CatalogError, match="this thread has the catalog open already"), catalog.writing():
        pass
    with catalog.writing(), pytest.raises(CatalogError, match="this thread has the catalog open already"), catalog.reading():
        pass
    with catalog.writing():
        pass


def test_reading_inside_reading_does_not_wait_for_a_writer_that_waits(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer stands behind the outer reader, and would have the inner one stand behind itself."""
    monkeypatch.setattr("weightspace.zoo.catalog._WAIT", 20)
    written = threading.Event()

    def write() -> None:
        with catalog.writing() as connection:
            connection.execute("insert into tags values (1, 'a', 'b')")
        written.set()

    writer = threading.Thread(target=write)
    with catalog.reading() as outer:
        writer.start()
        time.sleep(0.3)
        assert not written.is_set()
        with catalog.reading() as inner:
            assert inner.execute("select count(*) from tags").fetchall() == outer.execute("select count(*) from tags").fetchall() == [(0,)]
    writer.join(20)
    assert written.is_set()


def test_a_forked_child_does_not_keep_the_lock(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightspace.zoo.catalog._WAIT", 2)
    with catalog.reading():
        child = os.fork()
        if child == 0:
            time.sleep(30)
            os._exit(0)
    try:
        with catalog.writing() as connection:
            connection.execute("insert into tags values (1, 'a', 'b')")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


OPENS_IT = (
    "import duckdb, sys; kept = duckdb.connect(sys.argv[1], read_only=len(sys.argv) > 2); print('open', flush=True); sys.stdin.read()"
)


@pytest.mark.parametrize("options", [[], ["read-only"]])
def test_a_catalog_that_another_program_has_open_is_one_clear_line(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """Such as DuckDB's own shell, which knows nothing of the lock; what it says is no reason to remove the catalog."""
    monkeypatch.setattr("weightspace.zoo.catalog._FOREIGN_WAIT", 0.2)
    command = [sys.executable, "-c", OPENS_IT, str(catalog.path), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline()
        with pytest.raises(CatalogError, match=f"process {other.pid} has opened it without weightspace; close it there"), catalog.writing():
            pass
        other.communicate()
    with catalog.writing():
        pass


def test_a_connection_of_ones_own_to_the_catalog_is_one_clear_line(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weightspace.zoo.catalog._FOREIGN_WAIT", 0.2)
    with duckdb.connect(str(catalog.path)), pytest.raises(CatalogError, match="this process has opened it without weightspace"):
        with catalog.reading():
            pass


def test_what_duckdb_raises_in_a_block_is_one_line(catalog: Catalog) -> None:
    with pytest.raises(CatalogError, match="does_not_exist") as caught, catalog.reading() as connection:
        connection.execute("select 1 from does_not_exist")
    assert "\n" not in str(caught.value)


def test_creating_twice_and_at_once_makes_one_catalog(tmp_path: Path) -> None:
    catalogs = [Catalog(tmp_path / ".weightspace") for _ in range(6)]
    threads = [threading.Thread(target=one.create) for one in catalogs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(p.name for p in (tmp_path / ".weightspace").iterdir()) == ["catalog.duckdb", "gate", "lock"]


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CatalogError, match="cannot be created"):
        Catalog(tmp_path / "file" / ".weightspace").create()


ATTEMPTS = """
import os, sys
from weightspace.errors import WeightSpaceError
from weightspace.zoo import Zoo

def attempt(zoo, path):
    for action in (zoo.models, lambda: zoo.ingest(path, jobs=1)):
        try:
            action()
        except WeightSpaceError as error:
            print(error)
        else:
            print("done")

attempt(Zoo(sys.argv[1]), sys.argv[3])  # so that all is imported while this process may still read it
if os.geteuid() == 0:
    os.seteuid(65534)  # permissions bind everybody but root
attempt(Zoo(sys.argv[2]), sys.argv[3])
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder of a zoo, which anybody may reach."""
    made = Path(tempfile.mkdtemp())
    try:
        yield made
    finally:
        for path in (made, *made.rglob("*")):
            path.chmod(0o700)
        shutil.rmtree(made)


def attempts(folder: Path, modes: dict[str, int], scratch: Path) -> list[str]:
    """Try to read a zoo and to ingest into it as its owner, when its files have these modes; returns what came of it."""
    np.savez(folder / "new.npz", w=np.ones(3))
    for path in (folder, *folder.rglob("*")):
        if os.geteuid() == 0:
            os.chown(path, 65534, 65534)
    for name, mode in modes.items():
        (folder / name).chmod(mode)
    command = [sys.executable, "-c", ATTEMPTS, str(scratch), str(folder), str(folder / "new.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0 and done.stderr == ""
    return done.stdout.splitlines()[2:]


@pytest.mark.parametrize("with_locks", [True, False])
def test_a_read_only_zoo_can_be_read_but_not_written(folder: Path, tmp_path: Path, with_locks: bool) -> None:
    catalog = Catalog(folder / ".weightspace")
    catalog.create()
    modes = {".weightspace/catalog.duckdb": 0o400, ".weightspace/gate": 0o400, ".weightspace/lock": 0o400, ".weightspace": 0o500}
    if not with_locks:
        for name in ("gate", "lock"):
            (catalog.home / name).unlink()
            del modes[f".weightspace/{name}"]
    read, written = attempts(folder, modes, tmp_path)
    assert read == "done"
    assert written == f"{catalog.home}: cannot take its lock (Permission denied); check the folder's permissions and the free space"


def test_a_read_only_catalog_file_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    Catalog(folder / ".weightspace").create()
    read, written = attempts(folder, {".weightspace/catalog.duckdb": 0o400}, tmp_path)
    assert read == "done"
    assert "Permission denied" in written and written.endswith("check its permissions and those of its folder")


def test_a_folder_in_which_no_zoo_can_be_made_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    read, written = attempts(folder, {".": 0o500}, tmp_path)
    assert "has no zoo yet" in read
    assert written == f"{folder}/.weightspace: cannot be created (Permission denied); choose another folder with --zoo"
