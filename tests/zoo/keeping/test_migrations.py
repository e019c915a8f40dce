"""Catalogs of older versions: brought forward in one step, with a copy kept; readers of them; and versions from the future."""

import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow.compute as pc
import pytest
import zstandard

from weightspace.errors import CatalogError
from weightspace.zoo import Zoo, catalog
from weightspace.zoo.catalog import SCHEMA_VERSION, Catalog
from weightspace.zoo.keeping.check import check
from weightspace.zoo.keeping.migrations import Migration, migration, migrations, pending

GOLDEN = Path(__file__).parents[2] / "golden" / "catalog_v1.duckdb.zst"
TABLES = (
    "architectures", "edges", "embeddings", "files", "measurements", "metrics", "model_tensors", "models", "pair_measurements", "quarantine",
    "recipes", "runs", "tags", "tensors",
)  # fmt: skip


@pytest.fixture
def golden(tmp_path: Path) -> Zoo:
    """A zoo whose catalog was written by version 1; of its weights nothing is there."""
    zoo = Zoo(tmp_path / "zoo")
    zoo.catalog.home.mkdir(parents=True)
    zoo.catalog.path.write_bytes(zstandard.ZstdDecompressor().decompress(GOLDEN.read_bytes()))
    return zoo


def rows(path: Path) -> dict[str, list[tuple[object, ...]]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return {table: connection.execute(f"select * from {table} order by all").fetchall() for table in TABLES}


def meta(zoo: Zoo) -> dict[str, str]:
    with duckdb.connect(str(zoo.catalog.path), read_only=True) as connection:
        return dict(connection.execute("select key, value from meta").fetchall())


def test_every_version_has_its_step() -> None:
    assert list(migrations()) == list(range(2, SCHEMA_VERSION + 1))


def test_a_catalog_of_version_1_is_brought_forward_by_the_first_write(golden: Zoo) -> None:
    before, bytes_before = rows(golden.catalog.path), golden.catalog.path.read_bytes()
    assert all(before.values())
    golden.create()
    golden.record("base", tags={"fresh": "yes"})
    after = rows(golden.catalog.path)
    assert {**after, "tags": [row for row in after["tags"] if row[1] != "fresh"]} == before
    said = meta(golden)
    assert said["schema_version"] == str(SCHEMA_VERSION) and len(said["zoo_id"]) == 32
    kept = golden.catalog.home / "catalog.version-1.duckdb"
    assert rows(kept) == before and kept.read_bytes() == bytes_before
    assert sorted(path.name for path in golden.catalog.home.iterdir()) == ["catalog.duckdb", kept.name, "gate", "lock"]


def test_a_migrated_catalog_has_the_shape_of_a_new_one(golden: Zoo, tmp_path: Path) -> None:
    golden.record("base", tags={"fresh": "yes"})
    fresh = Zoo(tmp_path / "fresh")
    fresh.create()
    assert (
        golden.tables().sort_by([("table", "ascending"), ("column", "ascending")]).filter(~_is_metric(golden)).to_pylist()
        == fresh.tables().sort_by([("table", "ascending"), ("column", "ascending")]).to_pylist()
    )
    assert {one.kind for one in check(golden, quick=True, jobs=1).findings} == {"missing"}  # its weights alone


def _is_metric(zoo: Zoo) -> pc.Expression:
    """Rows of columns that hang on the metrics there are."""
    wide = zoo.models().column_names
    return (pc.field("table") == "model_table") & pc.field("column").isin([name for name in wide if name.endswith(("accuracy", "loss"))])


def test_reading_a_catalog_of_version_1_leaves_it_as_it_is(golden: Zoo) -> None:
    before = golden.catalog.path.read_bytes()
    assert golden.sql("select count(*) as n from models").to_pylist() == [{"n": 5}]
    assert {one.kind for one in check(golden, quick=True, jobs=1).findings} == {"missing"}
    assert golden.catalog.path.read_bytes() == before and "zoo_id" not in meta(golden)


@pytest.fixture
def future(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[int, Migration]]:
    """A version that is two steps ahead, of which readers need the second."""
    known = dict(migrations())

    def widen(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("alter table tags add column since integer")

    def fill(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("update tags set since = 7")

    known[SCHEMA_VERSION + 1] = Migration(SCHEMA_VERSION + 1, widen, is_readable=True)
    known[SCHEMA_VERSION + 2] = Migration(SCHEMA_VERSION + 2, fill)
    monkeypatch.setattr(catalog, "SCHEMA_VERSION", SCHEMA_VERSION + 2)
    monkeypatch.setattr(catalog, "migrations", lambda: known)
    yield known


def made(folder: Path) -> Catalog:
    """A catalog of today with a row in it."""
    one = Catalog(folder / ".weightspace")
    one.create()
    with one.writing() as connection:
        connection.execute("insert into tags values (1, 'a', 'b')")
    return one


def test_several_steps_are_taken_in_order_and_a_reader_is_told_in_one_line(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    one = made(tmp_path)
    request.getfixturevalue("future")
    with pytest.raises(CatalogError) as caught, one.reading():
        pass
    assert f"has schema version {SCHEMA_VERSION}, this weightspace reads {SCHEMA_VERSION + 2}; 'weightspace check --quick --repair'" in str(
        caught.value
    )
    with one.writing() as connection:
        assert connection.execute("select since from tags").fetchall() == [(7,)]
    with one.reading() as connection:
        assert connection.execute("select value from meta where key = 'schema_version'").fetchall() == [(str(SCHEMA_VERSION + 2),)]
    assert (one.home / f"catalog.version-{SCHEMA_VERSION}.duckdb").exists()


def test_a_step_that_fails_changes_nothing(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    one = made(tmp_path)
    known = request.getfixturevalue("future")

    def fail(connection: duckdb.DuckDBPyConnection) -> None:
        connection.execute("update tags set key = 'half'")
        connection.execute("select nothing from nowhere")

    known[SCHEMA_VERSION + 2] = Migration(SCHEMA_VERSION + 2, fail)
    with pytest.raises(
        CatalogError, match=rf"the step to schema version {SCHEMA_VERSION + 2} failed .*nowhere.*; the catalog is what it was"
    ) as caught:
        with one.writing():
            pass
    assert "\n" not in str(caught.value)
    with duckdb.connect(str(one.path), read_only=True) as connection:
        assert connection.execute("select * from tags").fetchall() == [(1, "a", "b")]
        assert connection.execute("select value from meta where key = 'schema_version'").fetchall() == [(str(SCHEMA_VERSION),)]


KILLED = """
import os, signal, sys
from weightspace.zoo import catalog
from weightspace.zoo.keeping.migrations import Migration, migrations

step, home = sys.argv[1], sys.argv[2]
def die(*arguments):
    os.kill(os.getpid(), signal.SIGKILL)
known = dict(migrations())
if step == "inside":
    known[2] = Migration(2, die)
elif step == "between":
    known[3] = Migration(3, die)
elif step == "after":
    catalog.refresh_model_table = die
elif step == "copying":
    catalog.shutil.copyfile = die
catalog.migrations = lambda: known
with catalog.Catalog(catalog.Path(home)).writing() as connection:
    if step == "later":
        die()
"""


@pytest.mark.parametrize(
    "step", ["inside", *(pytest.param(step, marks=pytest.mark.slow) for step in ("copying", "between", "after", "later"))]
)
def test_a_migration_that_is_killed_is_taken_up_again(golden: Zoo, step: str) -> None:
    before = rows(golden.catalog.path)
    done = subprocess.run([sys.executable, "-c", KILLED, step, str(golden.catalog.home)], capture_output=True, timeout=100)
    assert done.returncode == -9
    golden.record("base", tags={"fresh": "yes"})
    after = rows(golden.catalog.path)
    assert {**after, "tags": [row for row in after["tags"] if row[1] != "fresh"]} == before
    assert meta(golden)["schema_version"] == str(SCHEMA_VERSION)


def test_a_full_disk_keeps_the_old_version(golden: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    with pytest.raises(
        CatalogError, match=r"cannot be written \(No space left on device\), so the catalog stays at schema version 1; check the folder"
    ):
        golden.record("base", tags={"fresh": "yes"})
    assert meta(golden)["schema_version"] == "1"


@pytest.mark.parametrize("version", ["0", "-1", "two", "none", str(SCHEMA_VERSION + 1), "1 and 2"])
def test_no_steps_lead_there(version: str) -> None:
    assert pending(version, SCHEMA_VERSION, migrations()) is None


def test_steps_that_are_missing_lead_nowhere() -> None:
    steps = {number: Migration(number, lambda _: None) for number in (2, 4)}
    assert pending("1", 4, steps) is None
    assert [one.version for one in pending("1", 2, steps) or []] == [2] and pending("4", 4, steps) == []


def test_two_files_for_one_version_are_refused() -> None:
    number = next(itertools.islice(migrations(), 1))
    with pytest.raises(ValueError, match=f"two migrations lead to version {number}"):
        migration(number)(lambda _: None)
