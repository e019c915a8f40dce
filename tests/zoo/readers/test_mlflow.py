import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from weightspace.errors import RecordError
from weightspace.zoo.metrics import Metric
from weightspace.zoo.readers import mlflow_server, read_runs
from weightspace.zoo.runs.run import Run

TIME = 1_767_225_600_000  # 2026-01-01, in the milliseconds that MLflow counts
START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, 0, 1, tzinfo=UTC)
META = f"artifact_uri: file:///store/r/artifacts\nend_time: {TIME + 60_000}\nlifecycle_stage: active\nrun_id: {{}}\nrun_name: {{}}\nstart_time: {TIME}\nstatus: 3\n"


def write(root: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def file_store(root: Path) -> Path:
    """What mlflow 3.17.2 writes with MLFLOW_ALLOW_FILE_STORE=true."""
    run = "mlruns/882/3772"
    texts = {
        "mlruns/882/meta.yaml": "experiment_id: '882'\nlifecycle_stage: active\nname: digits\n",
        f"{run}/meta.yaml": META.format("3772", "first"),
        f"{run}/params/lr": "0.001",
        f"{run}/params/seed": "7",
        f"{run}/tags/mlflow.runName": "first",
        f"{run}/metrics/val/loss": f"{TIME} 1.0 0\n{TIME} 0.5 1\n",
        f"{run}/metrics/bad": f"{TIME} nan 4\n{TIME} inf 5\n",
        "mlruns/882/9999/meta.yaml": META.format("9999", "gone").replace("active", "deleted"),
        "mlruns/.trash/1/meta.yaml": "name: trash\n",
    }
    write(root, texts)
    return root


def database(root: Path) -> Path:
    """The tables of mlflow 3.17.2 that matter; it stores NaN as 0 with a flag, and infinity as the largest float."""
    path = root / "mlflow.db"
    connection = sqlite3.connect(path)
    connection.executescript(
        "create table experiments (experiment_id integer, name text);"
        "create table runs (run_uuid text, name text, status text, start_time bigint, end_time bigint, lifecycle_stage text, artifact_uri text,"
        " experiment_id integer);"
        "create table metrics (key text, value float, timestamp bigint, run_uuid text, step bigint, is_nan boolean);"
        "create table params (key text, value text, run_uuid text);"
        "create table tags (key text, value text, run_uuid text);"
        "insert into experiments values (1, 'digits');"
        f"insert into runs values ('3772', 'first', 'FINISHED', {TIME}, {TIME + 60_000}, 'active', 'file:///store/r/artifacts', 1);"
        f"insert into runs values ('9999', 'gone', 'FINISHED', {TIME}, {TIME}, 'deleted', 'x', 1);"
        f"insert into metrics values ('val/loss', 1.0, {TIME}, '3772', 0, 0), ('val/loss', 0.5, {TIME}, '3772', 1, 0),"
        f" ('bad', 0, {TIME}, '3772', 4, 1), ('bad', 1.7976931348623157e308, {TIME}, '3772', 5, 0);"
        "insert into params values ('lr', '0.001', '3772'), ('seed', '7', '3772');"
        "insert into tags values ('mlflow.runName', 'first', '3772');"
    )
    connection.commit()
    connection.close()
    return path


class Answers(BaseHTTPRequestHandler):
    """The three methods of MLflow's REST interface that are asked, with pages of one entry, and NaN as text."""

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("experiments/search"):
            self.answer(
                "experiments",
                [{"experiment_id": "0", "name": "Default"}, {"experiment_id": "1", "name": "digits"}],
                query.get("page_token"),
            )
        elif self.path.endswith("runs/search"):
            info = {"run_id": "3772", "run_name": "first", "status": "FINISHED", "start_time": TIME, "end_time": TIME + 60_000}
            info["artifact_uri"] = "file:///store/r/artifacts"
            data = {
                "metrics": [{"key": "val/loss"}, {"key": "bad"}],
                "params": [{"key": "lr", "value": "0.001"}, {"key": "seed", "value": "7"}],
                "tags": [{"key": "mlflow.runName", "value": "first"}],
            }
            self.answer("runs", [{"info": info, "data": data}] if query["experiment_ids"] == ["1"] else [], query.get("page_token"))

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        points: dict[str, list[tuple[Any, int]]] = {"val/loss": [(1.0, 0), (0.5, 1)], "bad": [("NaN", 4), (1.7976931348623157e308, 5)]}
        entries = [{"value": value, "step": step, "timestamp": TIME} for value, step in points[query["metric_key"][0]]]
        self.answer("metrics", entries, query.get("page_token", [None])[0])

    def answer(self, name: str, entries: list[Any], token: str | None) -> None:
        at = int(token or 0)
        said = {name: entries[at : at + 1], **({"next_page_token": str(at + 1)} if at + 1 < len(entries) else {})}
        self.send(200, json.dumps(said).encode())

    def send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def check(runs: list[Run]) -> None:
    (run,) = runs
    assert (run.key, run.name, run.source, run.seed, run.status) == ("mlflow:3772", "first", "mlflow", 7, "finished")
    assert run.hyperparameters == {"lr": 0.001, "seed": 7}
    assert run.tags == {"experiment": "digits", "mlflow.runName": "first"}
    assert (run.started, run.ended) == (START, END)
    assert run.metrics == (Metric("loss", 1.0, "val", 0, START), Metric("loss", 0.5, "val", 1, START))
    assert run.artifacts == ("file:///store/r/artifacts/",)
    assert run.notes == ("2 values that are NaN or infinite were left out",)


def test_file_store_database_and_server_tell_the_same_run(tmp_path: Path) -> None:
    store = file_store(tmp_path)
    check(list(read_runs(store)))
    check(list(read_runs(store / "mlruns")))
    path = database(tmp_path / "mlruns")
    check(list(read_runs(path)))
    check(list(read_runs(f"sqlite:///{path}")))
    with serving(Answers) as address:
        check(list(read_runs(address)))


def test_a_database_is_left_untouched(tmp_path: Path) -> None:
    path = database(tmp_path)
    connection = sqlite3.connect(path)
    connection.execute("pragma journal_mode=wal")
    connection.close()
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    check(list(read_runs(path)))
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_rows_still_in_the_log_of_a_writer_are_read(tmp_path: Path) -> None:
    path = database(tmp_path)
    writer = sqlite3.connect(path)
    writer.execute("pragma journal_mode=wal")
    writer.execute("update runs set name = 'renamed' where run_uuid = '3772'")
    writer.commit()
    before = path.read_bytes()
    assert [run.name for run in read_runs(path)] == ["renamed"]
    assert path.read_bytes() == before
    writer.close()


def test_a_damaged_run_is_told_with_a_note(tmp_path: Path) -> None:
    file_store(tmp_path)
    (tmp_path / "mlruns/882/3772/meta.yaml").write_text("run_id: [")
    (tmp_path / "mlruns/882/3772/params/lr").write_bytes(b"\xff")
    (run,) = read_runs(tmp_path)
    assert run.key == "mlflow:3772" and len(run.metrics) == 2 and len(run.notes) == 3


def test_a_view_that_never_ends_is_no_mlflow_database(tmp_path: Path) -> None:
    path = database(tmp_path)
    connection = sqlite3.connect(path)
    endless = "with recursive n(key) as (select 1 union all select key + 1 from n) select key, 0 value, 0 timestamp, '' run_uuid, 0 step, 0 is_nan from n"
    connection.executescript(f"drop table metrics; create view metrics as {endless};")
    connection.close()
    with pytest.raises(RecordError, match="no tracker's records"):
        list(read_runs(path))
    with pytest.raises(RecordError, match="table 'metrics'"):
        list(read_runs(path, "mlflow-sqlite"))


@pytest.mark.parametrize("keep", [100, 5000, -100])
def test_a_cut_database_is_one_clear_error(tmp_path: Path, keep: int) -> None:
    path = database(tmp_path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RecordError) as caught:
        list(read_runs(path, "mlflow-sqlite"))
    assert "\n" not in str(caught.value) and "mlflow.db" in str(caught.value)


class Broken(Answers):
    body, status = b"", 200

    def do_POST(self) -> None:
        self.send(self.status, self.body)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>", "expected JSON"),
        (200, b"[]", "expected a JSON object"),
        (404, b"not\nhere", "answered 404"),
        (200, b'{"experiments": [], "next_page_token": "x"}', "pages without end"),
    ],
)
def test_a_server_that_is_none_is_one_clear_error(status: int, body: bytes, said: str) -> None:
    with serving(type("One", (Broken,), {"body": body, "status": status})) as address, pytest.raises(RecordError, match=said) as caught:
        list(read_runs(address))
    assert "\n" not in str(caught.value)


def test_a_server_that_hangs_or_is_not_there_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlflow_server, "TIMEOUT", 0.2)
    release = threading.Event()

    class Slow(Answers):
        def do_POST(self) -> None:
            release.wait(10)

    with serving(Slow) as address:
        with pytest.raises(RecordError, match="timed out"):
            list(read_runs(address))
        release.set()
    with pytest.raises(RecordError, match="no answer"):
        list(read_runs(address))
