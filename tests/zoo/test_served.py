"""A served catalog answers as the file itself does; the protocol is spoken for real where DuckDB has its extension."""

import contextlib
import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
import torch

from tests.zoo.quack import missing_quack
from weightspace.errors import CatalogError, FormatError
from weightspace.zoo import served
from weightspace.zoo.served import TOKEN, ServedCatalog, _filled, _Session, is_served, token
from weightspace.zoo.serving import serve
from weightspace.zoo.zoo import Zoo

SECRET = "a secret of the tests"


needs_quack = pytest.mark.skipif(bool(missing_quack()), reason=missing_quack() or "it is there")


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, SECRET)


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    made = Zoo(tmp_path / "zoo")
    made.add({"w": torch.arange(6.0).reshape(2, 3)}, "it's a", metrics={"test": {"accuracy": 0.5}}, tags={"k": "v?"})
    made.add({"w": torch.ones(2, 3)}, "b", parents=["it's a"])
    return made


class Server(_Session):
    """A session whose server is a connection of this process."""

    def __init__(self, server: duckdb.DuckDBPyConnection) -> None:
        super().__init__(duckdb.connect())
        self.server = server

    def execute(self, statement: str, parameters: Any = ()) -> duckdb.DuckDBPyConnection:
        return self.server.execute(_filled(statement, parameters))

    def sql(self, statement: str, *, params: Any = ()) -> duckdb.DuckDBPyRelation:
        return self.server.sql(_filled(statement, params))


@pytest.fixture
def beside(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """The zoo through sessions whose server is this process, so that all but the wire is as it is with a server."""

    @contextlib.contextmanager
    def session(self: ServedCatalog) -> Iterator[Server]:
        with duckdb.connect(str(zoo.catalog.path)) as server:
            yield Server(server)

    monkeypatch.setattr(ServedCatalog, "_session", session)
    (zoo.catalog.home / "served").write_text("nonce")
    with zoo.catalog.writing() as connection:
        connection.execute("insert into meta values ('writer', '')")
    made = Zoo(zoo.folder)
    object.__setattr__(made, "catalog", ServedCatalog(zoo.catalog.home, "here:1", True, "nonce"))
    return made


def use(zoo: Zoo, through: Zoo) -> None:
    """Read and write through a served catalog, and see the same as in the file."""
    for said in (Zoo.models, Zoo.files, Zoo.runs, Zoo.duplicates, Zoo.quarantined):
        assert said(through).equals(said(zoo))
    assert through.page("b").tensors.equals(zoo.page("b").tensors) and through.page("b").parents == (("it's a", "made"),)
    assert through.open("it's a").id == zoo.open("it's a").id
    assert through.sql("select ? as a, '?' as b where 1 = ?", ["x'y", 1]).to_pylist() == [{"a": "x'y", "b": "?"}]
    with pytest.raises(CatalogError, match="sql reads the catalog and nothing else"):
        through.sql("delete from tags")
    id = through.add({"w": torch.zeros(4)}, "c", metrics={"loss": 1.5e-300}, parents=["b"], tags={"x": 'y"\\'})
    through.record("c", metrics={"test": {"accuracy": 0.25}})
    through.record_embeddings("net", "1", {"b": [1.0, 0.1], "c": [0.5, 1e-30]})
    assert zoo.open("c").id == id and zoo.page("c").tags == {"x": 'y"\\'}
    assert zoo.sql("select value from metrics where name = 'loss'").to_pylist() == [{"value": 1.5e-300}]
    assert through.similar("b")["name"].to_pylist() == ["c"] and through.embeddings().equals(zoo.embeddings())
    assert through.models().equals(zoo.models()) and "loss" in through.models().column_names


def test_everything_but_the_wire(zoo: Zoo, beside: Zoo) -> None:
    use(zoo, beside)


@pytest.mark.parametrize(
    "value",
    [None, True, False, 7, -(2**62), 0.1, 1e-308, float("inf"), "", "it's", '"\\\n?', "ß\U0001f600", b"\x00\xff'", b"",
     datetime(2026, 1, 2, 3, 4, 5, 678901), [1, 2], ["a'", "?"], [0.5, 1e300]],
)  # fmt: skip
def test_parameters_are_what_they_were(value: object) -> None:
    with duckdb.connect() as connection:
        assert connection.execute(_filled("select ?, '?', 1 -- ?", [value])).fetchall() == [(value, "?", 1)]


def test_parameters_of_other_types_are_refused() -> None:
    with pytest.raises(CatalogError, match="takes no parameter of type dict"):
        _filled("select ?", [{}])


def test_tables_come_over_as_they_are() -> None:
    table = pa.table(
        {
            "hash": pa.array([b"\x00\xff", None, b""], pa.binary()),
            "shape": pa.array([[2**40, 0], [], None], pa.list_(pa.int64())),
            "vector": pa.array([[0.1, 1e-30], None, []], pa.list_(pa.float32())),
            "value": pa.array([0.1, 5e-324, None], pa.float64()),
            "stamp": pa.array([2**64 - 1, 0, None], pa.uint64()),
            "time": pa.array([datetime(2026, 1, 2, 3, 4, 5, 6), None, None], pa.timestamp("us")),
            "a text": pa.array(["it's \"\\\n", "", None], pa.string()),
            "is": pa.array([True, False, None]),
            "languages": pa.array([["de", "e'n"], None, []], pa.list_(pa.string())),
        }
    )
    with duckdb.connect() as server:
        session = Server(server)
        for given in (table, table.slice(0, 0), pa.concat_tables([table] * 15_000)):
            session.register("batch", given)
            assert server.table("batch").to_arrow_table() == given
            session.unregister("batch")
        with pytest.raises(duckdb.CatalogException):
            server.execute("from batch")


@pytest.mark.parametrize("address", ["quack:", "quack:a b", "quack:host:", "quack:host:x", "quack:h' or '1", "quack:host:1folder"])
def test_what_is_no_address(address: str) -> None:
    assert is_served(address) and not is_served("zoo") and not is_served(None)
    with pytest.raises(CatalogError, match=re.escape(f"'{address}' is no address of a served catalog; write quack:HOST:PORT")):
        Zoo(address)


def test_a_secret_that_is_missing_or_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN, "short")
    with pytest.raises(CatalogError, match=f"^{TOKEN} is too short; set it to the same secret of at least 16 characters"):
        token()
    monkeypatch.delenv(TOKEN)
    with pytest.raises(CatalogError, match=f"^{TOKEN} is not set"):
        token()


def test_an_extension_that_is_missing_is_one_line(zoo: Zoo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("HOME", str(tmp_path))  # where DuckDB keeps extensions
    for asked in (lambda: Zoo("quack:127.0.0.1:1"), lambda: serve(zoo.catalog, "127.0.0.1:1", seconds=0.1)):
        with pytest.raises(
            CatalogError, match=r"needs the extension 'quack', which DuckDB [\d.]+ does not have here; .*install quack"
        ) as said:
            asked()
        assert "\n" not in str(said.value)


def test_what_cannot_be_served(beside: Zoo, zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="is served already; serve the folder of a zoo"):
        serve(beside.catalog)
    with pytest.raises(CatalogError, match="'no host' is no address to listen at; write HOST:PORT"):
        serve(zoo.catalog, "no host")
    with pytest.raises(CatalogError, match="has no zoo yet"):
        serve(Zoo(tmp_path / "nothing").catalog)


def test_weights_that_are_not_reachable(beside: Zoo) -> None:
    away = Zoo(beside.folder)
    catalog = ServedCatalog(beside.folder / "elsewhere" / ".weightspace", "here:1", True, "nonce")
    object.__setattr__(away, "catalog", catalog)
    object.__setattr__(away, "folder", catalog.home.parent)
    assert away.models().equals(beside.models())
    with pytest.raises(FormatError, match=r"model 'b' lies in .*elsewhere, a folder that is not reachable here; mount it"):
        away.open("b")
    with pytest.raises(
        CatalogError, match=r"the folder of this zoo, .*elsewhere, is not reachable here; mount it, and name it as in quack:here:1/mnt/zoo"
    ):
        away.add({"w": torch.ones(2)}, "d")
    assert not catalog.home.exists() and away.cache == {}


def test_a_server_that_only_reads(beside: Zoo) -> None:
    object.__setattr__(beside, "catalog", ServedCatalog(beside.catalog.home, "here:1", False, ""))
    for write in (lambda: beside.record("b", metrics={"x": 1}), lambda: beside.add({"w": torch.ones(2)}, "d")):
        with pytest.raises(
            CatalogError, match=r"quack:here:1: serves its catalog for reading alone; start it with 'weightspace serve --write'"
        ):
            write()


@contextlib.contextmanager
def serving(folder: Path, *options: str, secret: str = SECRET) -> Iterator[str]:
    """A server in a process of its own; its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [sys.executable, "-m", "weightspace", "serve", address, "--zoo", str(folder), *options]
    with subprocess.Popen(command, env={**os.environ, TOKEN: secret}, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            assert "serving" in process.stderr.readline()
            yield f"quack:{address}"
        finally:
            process.terminate()
            assert SECRET not in process.stderr.read()


@needs_quack
class TestTheWire:
    def test_reading_and_writing(self, zoo: Zoo) -> None:
        with serving(zoo.folder, "--write") as address:
            through = Zoo(address)
            assert str(zoo.folder) in repr(through)
            before = through.models().to_pylist()
            through.add({"w": torch.zeros(4)}, "c", metrics={"loss": 1.5}, parents=["b"], tags={"x": "y"})
            assert [row["name"] for row in through.models().to_pylist()] == ["b", "c", "it's a"] and len(before) == 2
        assert zoo.page("c").parents == (("b", "made"),) and zoo.sql("select count(*) as n from meta where key = 'writer'").to_pylist() in (
            [{"n": 0}],
            [{"n": 1}],  # the server was ended by a signal
        )
        with serving(zoo.folder) as address:
            through = Zoo(address)
            assert through.models().equals(zoo.models()) and through.open("c").id == zoo.open("c").id
            with pytest.raises(CatalogError, match="sql reads the catalog and nothing else"):
                through.sql("delete from tags")
            with pytest.raises(CatalogError, match="file system operations are disabled"):
                through.sql("select * from read_csv('/etc/passwd')")
            with pytest.raises(CatalogError, match="serves its catalog for reading alone"):
                through.record("c", metrics={"x": 1})

    def test_a_writer_beside_the_server_is_let_through(self, zoo: Zoo) -> None:
        with serving(zoo.folder) as address:
            through = Zoo(address)
            started = time.monotonic()
            for step in range(3):
                zoo.record("b", metrics={"beside": step}, step=step)
                assert through.sql("select max(value) as v from metrics where name = 'beside'").to_pylist() == [{"v": float(step)}]
            assert time.monotonic() - started < 20

    def test_clients_that_write_at_once_take_turns(self, zoo: Zoo) -> None:
        with serving(zoo.folder, "--write") as address:
            program = (
                "import sys; from weightspace.zoo.zoo import Zoo; import torch; zoo = Zoo(sys.argv[1])\n"
                "for at in range(3): zoo.add({'w': torch.full((3,), float(sys.argv[2]) * 100 + at)}, 'new', metrics={'n': at})"
            )
            clients = [subprocess.Popen([sys.executable, "-c", program, address, str(which)]) for which in range(3)]
            assert [client.wait(600) for client in clients] == [0, 0, 0]
            found = Zoo(address).sql("select count(*) as n, count(distinct model_id) as ids, count(distinct name) as names from models")
            assert found.to_pylist() == [{"n": 11, "ids": 11, "names": 11}]

    def test_what_goes_wrong_is_one_line_without_the_secret(self, zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
        with serving(zoo.folder) as address:
            with pytest.raises(CatalogError, match="cannot be listened at") as said:
                serve(zoo.catalog, address, seconds=0.1)
            assert SECRET not in str(said.value)
            monkeypatch.setenv(TOKEN, "another secret of the tests")
            with pytest.raises(CatalogError, match=f"refuses the token; set {TOKEN} to the one"):
                Zoo(address)
        monkeypatch.setattr(served, "_ABSENT", 0.2)
        with pytest.raises(CatalogError, match="nobody serves a catalog there; start it with 'weightspace serve' on that machine"):
            Zoo(address)
