"""A hub that wants harm: nothing that it says leaves its folder, runs, fills memory or reaches the terminal as it is."""

import gzip
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub.utils.tqdm import disable_progress_bars
from safetensors.numpy import save_file

import weightspace as ws
from tests.faults.columns import Fault, with_header
from tests.faults.rows import command
from tests.hub.loopback_store import HubError
from tests.remote.hubs import Hub, running
from tests.zoo.wholeness import faults
from weightspace.errors import FormatError
from weightspace.remote import client, listing
from weightspace.zoo import Zoo
from weightspace.zoo.exchange import bounded
from weightspace.zoo.hub import ingest_hub, pull_model, search

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>' to upload raw:DeprecationWarning")

NAMES = [
    "../../../x",
    "/etc/x",
    "a/../../x",
    "a\0b",
    "\x1b[31mred\x1b[2J",
    "\u202ethgir morf",
    "\x9b2J\x07bell",
    "line\nbreak\r",
    "x" * 10_000,
    "<script>alert(1)</script>",
    "[here](javascript:alert(1))",
    "a\\..\\..\\x",
    "\ud800",
    "",
]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    disable_progress_bars()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    with running(tmp_path, monkeypatch) as made:
        made.model("lab/toy")
        made.model("lab/good", 1)
        yield made


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return Zoo(tmp_path / "zoo")


def says(hub: Hub, change: Callable[[Any], Any], path: str = "/api/models/lab/toy") -> None:
    """Let the hub say something else of a repository."""

    def twist(head: bytes, body: bytes) -> bytes:
        said = json.dumps(change(json.loads(body))).encode()
        return with_header(head, b"Content-Length", b"%d" % len(said)) + said

    fault: Callable[[str, str], Fault | None] = lambda method, asked: twist if asked == path else None  # noqa: E731 - a value for a field
    object.__setattr__(hub.settings, "fault", fault)


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def allowed(path: str) -> bool:
    """Whether something lies where it may: the hub's own files, uploads, the cache, the zoo and the working folder's output."""
    return path.split("/")[0] in ("hub", "uploads", "cache", "zoo", "work")


def looked(zoo: Zoo) -> None:
    """Ask for everything that a hub can be asked for about one repository; what it refuses, it refuses in one line."""
    for ask in (lambda: ws.open("hf:lab/toy")["fc.bias"], lambda: pull_model(zoo, "lab/toy")):
        try:
            ask()
        except FormatError as error:
            assert str(error).isprintable()
    report = ingest_hub(zoo.catalog, ["lab/toy", "lab/good"])
    assert report.catalogued >= 1 and "lab/good" in zoo.models()["name"].to_pylist()
    assert faults(zoo) == []
    for line in (("ls", "--format", "table"), ("sql", "select * from quarantine"), ("show", "lab/toy")):
        done = command(*line, "--zoo", zoo.folder)
        assert not set(str(done.result) + done.said) & {"\x1b", "\x9b", "\u202e", "\0", "\x07"}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name[:20]))
def test_names_of_files_lead_nowhere(hub: Hub, zoo: Zoo, tmp_path: Path, name: str) -> None:
    def change(said: Any) -> Any:
        for one in said["siblings"]:
            one["rfilename"] = one["rfilename"].replace("model.safetensors", f"{name}.safetensors" if name else "")
        return said

    says(hub, change)
    looked(zoo)
    assert all(map(allowed, everything(tmp_path)))
    assert not (tmp_path / "x.safetensors").exists() and not Path("/etc/x.safetensors").exists()


@pytest.mark.parametrize(
    "said",
    [
        {"sha": "../../../x"},
        {"sha": None},
        {"sha": 5},
        {"sha": "\x1b[2J" + "0" * 36},
        {"id": "../../x\x1b[2J"},
        {"siblings": None},
        {"siblings": "x"},
        {"siblings": [None]},
        {"siblings": [{}]},
        {"siblings": [{"rfilename": None, "size": 4, "blobId": "0" * 40}]},
        {
            "siblings": [
                {"rfilename": "model.safetensors", "size": size, "blobId": "0" * 40} for size in (-1, 1 << 70, "7", True, 1.5, None)
            ]
        },
        {"siblings": [{"rfilename": "model.safetensors", "size": 100, "blobId": "../../x"}]},
        {"siblings": [{"rfilename": "model.safetensors", "size": 1 << 50, "blobId": "0" * 40}]},
        {"siblings": [{"rfilename": "model.safetensors", "size": 500, "blobId": "0" * 40, "lfs": "x"}]},
        {"cardData": [1]},
        {"cardData": "text"},
        {"cardData": {"self": 1, "\x1b[2J": "\ud800"}},
        {"cardData": {"license": ["x"] * 100_000, "base_model": {"a": 1}, "datasets": [None, [["deep"]]], "language": {"x": "\x1b[2J"}}},
        {"cardData": {"model-index": [{"name": 5, "results": "x"}]}},
        {"cardData": {"model-index": [{"name": "x", "results": [{"metrics": [{"type": "\x1b[2J", "value": "nan"}]}]}]}},
        {"config": "text"},
        {"config": {"architectures": [[[["deep"]]]], "model_type": {"a": 1}}},
        {"config": {"architectures": ["\x1b[31m" + "x" * 10_000], "auto_map": {"AutoModel": "evil.Model"}}},
        {"lastModified": "yesterday"},
        {
            "gated": {"a": "\x1b[2J"},
            "tags": [1, None, "base_model:adapter:../../x", "\x1b[2J"],
            "library_name": [1],
            "pipeline_tag": {"a": 1},
        },
    ],
    ids=lambda said: json.dumps(said)[:60],
)
def test_what_cannot_be_costs_its_repository_alone(hub: Hub, zoo: Zoo, tmp_path: Path, said: dict[str, Any]) -> None:
    says(hub, lambda found: {**found, **said})
    looked(zoo)
    assert all(map(allowed, everything(tmp_path)))


@pytest.mark.parametrize("depth", [100, 500, 100_000])
def test_what_nests_deep_costs_its_repository_alone(hub: Hub, zoo: Zoo, depth: int) -> None:
    def twist(head: bytes, body: bytes) -> bytes:
        said = body.replace(b'"cardData": {', b'"cardData": {"deep": ' + b"[" * depth + b"]" * depth + b", ", 1)
        return with_header(head, b"Content-Length", b"%d" % len(said)) + said

    object.__setattr__(hub.settings, "fault", lambda method, path: twist if path == "/api/models/lab/toy" else None)
    looked(zoo)


@contextmanager
def raw_server(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Answer each connection with whatever a function sends, for as long as somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(1 << 16)
                    try:
                        answer(connection)
                    except OSError:
                        continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@cache
def packed() -> bytes:
    return gzip.compress(bytes(64 << 20), 1)


def endless(head: bytes, piece: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    return answer


OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(endless(OK + b"\r\n", b'["' + b"x" * 65536), id="a body without an end"),
        pytest.param(
            endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n"), id="chunks without an end"
        ),
        pytest.param(endless(OK + b"Content-Length: 8796093022208\r\n\r\n", b"[" * 65536), id="terabytes"),
        pytest.param(endless(OK, b"X-Header: " + b"x" * 65536 + b"\r\n"), id="headers without an end"),
        pytest.param(endless(b"HTTP/1.1 404 no\r\n\r\n", b"x" * 65536), id="an error without an end"),
        pytest.param(endless(b"HTTP/1.1 302 there\r\nLocation: /api/x\r\n\r\n", b"x" * 65536), id="a redirect with a body without an end"),
        pytest.param(
            lambda connection: connection.sendall(OK + b"Content-Encoding: gzip\r\n\r\n" + packed()),
            id="a small answer that unpacks to a large one",
        ),
    ],
)
def test_no_answer_fills_memory(answer: Callable[[socket.socket], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_BYTES", 1 << 20)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with raw_server(answer) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        with pytest.raises(FormatError):
            ws.open("hf:lab/toy")  # what is loaded at first is not counted
        tracemalloc.start()
        try:
            with pytest.raises(FormatError, match=r"hf:lab/toy: .*; "):
                ws.open("hf:lab/toy")
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()


def test_a_range_without_an_end_stops_where_it_should(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    head = b"HTTP/1.1 206 Partial Content\r\nConnection: close\r\n\r\n"
    with raw_server(endless(head, b"\x10\0\0\0\0\0\0\0" * 8192)) as elsewhere:

        def fault(method: str, path: str) -> HubError | None:
            return HubError(302, "there", headers={"Location": f"{elsewhere}/x"}) if "/resolve/" in path else None

        object.__setattr__(hub.settings, "fault", fault)
        with pytest.raises(FormatError, match="asked for 8 bytes, got more"):
            ws.open("hf:lab/toy")


class TestListings:
    def page(self, hub: Hub, link: Callable[[], str], names: Callable[[], list[Any]]) -> None:
        def twist(head: bytes, body: bytes) -> bytes:
            said = json.dumps([{"id": name} for name in names()]).encode()
            return with_header(with_header(head, b"Link", f'<{link()}>; rel="next"'.encode()), b"Content-Length", b"%d" % len(said)) + said

        object.__setattr__(hub.settings, "fault", lambda method, path: twist if path == "/api/models" else None)

    def test_that_go_round_are_left(self, hub: Hub) -> None:
        self.page(hub, lambda: f"{hub.url}/api/models?cursor=1", lambda: ["lab/a"])
        with pytest.raises(FormatError, match="a listing that goes on at"):
            list(search(author="lab"))

    def test_that_never_end_are_left(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(listing, "MOST_PAGES", 20)
        at = iter(range(1000))
        self.page(hub, lambda: f"{hub.url}/api/models?cursor={next(at)}", lambda: ["lab/a"])
        with pytest.raises(FormatError, match="a listing that goes on at"):
            list(search(author="lab"))

    def test_never_lead_to_another_host(self, hub: Hub) -> None:
        self.page(hub, lambda: "http://127.0.0.2:9/api/stolen", lambda: ["lab/a"])
        with pytest.raises(FormatError):  # /api/stolen of this hub, which has none
            list(search(author="lab"))

    def test_print_no_escapes(self, hub: Hub, zoo: Zoo) -> None:
        self.page(hub, lambda: "", lambda: [*NAMES, 5, None])
        for form in ("table", "json", "csv"):
            done = command("hub", "ls", "--author", "lab", "--limit", "20", "--format", form, "--zoo", zoo.folder)
            assert not set(str(done.result)) & {"\x1b", "\x9b", "\u202e", "\0", "\x07", "\r"}
        done = command("hub", "ingest", "--author", "lab", "--limit", "20", "--zoo", zoo.folder, quiet=False)
        assert not set(str(done.result) + done.said) & {"\x1b", "\x9b", "\u202e", "\0", "\x07", "\r"}


def test_a_token_does_not_travel_to_another_host(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []

    def answer(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 404 no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(1 << 16))
                    answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        there = f"http://localhost:{server.getsockname()[1]}/x"
        object.__setattr__(hub.settings, "fault", lambda method, path: HubError(302, "there", headers={"Location": there}))
        with pytest.raises(FormatError):
            ws.open("hf:lab/toy")
        object.__setattr__(
            hub.settings, "fault", lambda method, path: HubError(302, "there", headers={"Location": there}) if "/resolve/" in path else None
        )
        with pytest.raises(FormatError):
            ws.open("hf:lab/toy")
        server.shutdown(socket.SHUT_RDWR)
    assert len(heard) == 2 and not any(b"authorization" in one.lower() for one in heard)


class TestParquet:
    def bomb(self, path: Path) -> Path:
        text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(5000, np.int32)), pa.array(["x" * (1 << 20)]))
        pq.write_table(pa.table({"id": text}), path, compression="zstd", dictionary_pagesize_limit=4 << 20)  # 5 GB of text in a small file
        return path

    def test_of_text_that_is_repeated_is_refused_before_it_is_spelled_out(self, tmp_path: Path) -> None:
        path = self.bomb(tmp_path / "bomb.parquet")
        assert path.stat().st_size < 2 << 20
        before = pa.total_allocated_bytes()
        with pytest.raises(
            FormatError, match=r"a table: holds \d{10} bytes once it is unpacked, expected 4294967296 at most; do not use it"
        ):
            bounded.read_bounded(path, "a table")
        assert pa.total_allocated_bytes() - before < 64 << 20

    def test_of_many_rows_is_refused_by_its_own_account(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pq.write_table(pa.table({"id": pa.array(np.zeros(1 << 20, np.int64))}), tmp_path / "rows.parquet")
        monkeypatch.setattr(bounded, "EXPANDED", 1 << 20)
        with pytest.raises(FormatError, match="once it is unpacked"):
            bounded.read_bounded(tmp_path / "rows.parquet", "a table")

    @pytest.mark.parametrize("raw", [b"", b"PAR1", b"PAR1" + b"\xff" * 100 + b"PAR1", b"PAR1" + (1 << 30).to_bytes(4, "little") + b"PAR1"])
    def test_that_is_none_is_said(self, tmp_path: Path, raw: bytes) -> None:
        (tmp_path / "x.parquet").write_bytes(raw)
        with pytest.raises(FormatError, match="a table: is damaged"):
            bounded.read_bounded(tmp_path / "x.parquet", "a table")

    def test_of_a_zoo_is_read_as_it_was_written(self, tmp_path: Path) -> None:
        table = pa.table({"a": ["x", None, "y"], "b": [["p", "q"], [], None], "c": [1, 2, None], "d": [[1, 2], None, []]})
        pq.write_table(table, tmp_path / "x.parquet")
        assert bounded.read_bounded(tmp_path / "x.parquet", "x").to_pylist() == table.to_pylist()


def test_a_recipe_that_names_code_is_only_text(hub: Hub, zoo: Zoo, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    plan = json.dumps(
        {"kind": "merge", "method": f"__import__('os').system('touch {canary}')", "module": "os.system", "call": ["touch", str(canary)]}
    )
    save_file(
        {"w": np.ones(3, np.float32)},
        tmp_path / "model.safetensors",
        {"weightspace.recipe": plan, "recipe": plan, "auto_map": "evil.Model"},
    )
    hub.api.create_repo("lab/evil")
    hub.api.upload_file(path_or_fileobj=tmp_path / "model.safetensors", path_in_repo="model.safetensors", repo_id="lab/evil")
    ingest_hub(zoo.catalog, ["lab/evil"])
    assert pull_model(zoo, "lab/evil") == ws.open(tmp_path / "model.safetensors").id
    assert command("show", "lab/evil", "--zoo", zoo.folder).is_done
    assert not canary.exists() and list((tmp_path / "work").iterdir()) == []
