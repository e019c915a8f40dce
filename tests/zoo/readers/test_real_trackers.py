"""The real tools write, the readers read: slow, and skipped where a tool is not installed.

WEIGHTSPACE_TRACKER_PYTHONS may list further interpreters, separated like PATH, whose environments have them.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from weightspace.zoo.metrics import Metric
from weightspace.zoo.readers import read_runs
from weightspace.zoo.runs.run import Run

pytestmark = pytest.mark.slow

QUIET = {
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "WANDB_MODE": "offline",
}

MLFLOW = """
import sys, mlflow
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment("digits")
for name in ("first", "second"):
    with mlflow.start_run(run_name=name):
        mlflow.log_params({"lr": 0.001, "seed": 7, "output_dir": "/out/a"})
        mlflow.set_tag("team", "blue")
        for step in range(5):
            mlflow.log_metric("val/loss", 1 / (step + 1), step=step)
        mlflow.log_metric("bad", float("nan"), step=4)
        mlflow.log_metric("bad", float("inf"), step=5)
with mlflow.start_run() as gone:
    pass
mlflow.delete_run(gone.info.run_id)
"""

WANDB = """
import wandb
run = wandb.init(project="digits", name="first", config={"lr": 0.001, "seed": 7, "opt": {"name": "adam"}}, tags=["blue"])
for step in range(2000):
    run.log({"val/loss": 1 / (step + 1), "nested": {"a": step}})
run.log({"bad": float("nan"), "inf": float("inf")})
open("m.pt", "wb").write(b"x" * 100)
artifact = wandb.Artifact("weights", "model")
artifact.add_file("m.pt")
run.log_artifact(artifact)
run.summary["best"] = 0.5
run.finish()
"""

TRACKIO = """
import trackio
trackio.init(project="digits", name="first", config={"lr": 0.001, "seed": 7, "opt": {"name": "adam"}})
for step in range(5):
    trackio.log({"val/loss": 1 / (step + 1)})
trackio.log({"bad": float("nan"), "inf": float("inf")})
trackio.finish()
"""


def python_with(module: str) -> str:
    candidates = [sys.executable, *filter(None, os.environ.get("WEIGHTSPACE_TRACKER_PYTHONS", "").split(os.pathsep))]
    for candidate in candidates:
        if subprocess.run([candidate, "-c", f"import {module}"], capture_output=True).returncode == 0:
            return candidate
    pytest.skip(f"{module} is not installed in {', '.join(candidates)}")


def write(module: str, script: str, folder: Path, *arguments: str, **settings: str) -> None:
    environment = {**os.environ, **QUIET, "HOME": str(folder), **settings}
    command = [python_with(module), "-c", script, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def check_losses(run: Run, steps: int) -> None:
    found = [one for one in run.metrics if (one.name, one.split) == ("loss", "val")]
    assert [one.step for one in found] == list(range(steps))
    assert [one.value for one in found] == pytest.approx([1 / (step + 1) for step in range(steps)])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [
        python_with("mlflow"),
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--host",
        "127.0.0.1",
    ]
    with (tmp_path / "server.log").open("wb") as log:
        running = subprocess.Popen(
            [*command, "--port", str(port), "--workers", "1"],
            cwd=tmp_path,
            env={**os.environ, **QUIET},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.3)
        else:
            pytest.fail((tmp_path / "server.log").read_text()[-2000:])
        yield address
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        running.wait(30)


def check_mlflow(runs: list[Run]) -> None:
    assert sorted(run.name for run in runs) == ["first", "second"]
    for run in runs:
        assert run.seed == 7 and run.hyperparameters == {"lr": 0.001, "seed": 7, "output_dir": "/out/a"}
        assert run.status == "finished" and run.started is not None and run.ended is not None and run.started <= run.ended
        assert run.tags["experiment"] == "digits" and run.tags["team"] == "blue"
        check_losses(run, 5)
        assert run.notes == ("2 values that are NaN or infinite were left out",) and len(run.artifacts) == 1


def test_mlflow_file_store(tmp_path: Path) -> None:
    write("mlflow", MLFLOW, tmp_path, f"file://{tmp_path}/mlruns")
    before = contents(tmp_path)
    check_mlflow(list(read_runs(tmp_path)))
    assert contents(tmp_path) == before


def test_mlflow_database_and_server(tmp_path: Path, server: str) -> None:
    write("mlflow", MLFLOW, tmp_path, server)
    asked = list(read_runs(server))
    check_mlflow(asked)
    before = contents(tmp_path)
    stored = list(read_runs(tmp_path))
    check_mlflow(stored)
    assert contents(tmp_path).keys() == before.keys()
    assert {run.key: set(run.metrics) for run in asked} == {run.key: set(run.metrics) for run in stored}


def test_wandb_offline(tmp_path: Path) -> None:
    write("wandb", WANDB, tmp_path)
    before = contents(tmp_path / "wandb")
    (run,) = read_runs(tmp_path)
    assert (run.name, run.seed, run.status, run.tags["project"], run.tags["tags"]) == ("first", 7, "finished", "digits", "blue")
    assert run.hyperparameters == {"lr": 0.001, "seed": 7, "opt.name": "adam"}
    check_losses(run, 2000)
    assert Metric("best", 0.5) in run.metrics and "m.pt" in run.artifacts
    assert run.started is not None and run.ended is not None and run.started <= run.ended
    assert run.notes == ("2 values that are NaN or infinite were left out",)
    assert contents(tmp_path / "wandb") == before


def test_trackio(tmp_path: Path) -> None:
    write("trackio", TRACKIO, tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    before = contents(tmp_path / "trackio")
    (run,) = read_runs(tmp_path / "trackio")
    assert (run.name, run.seed, run.tags["project"]) == ("first", 7, "digits")
    assert run.hyperparameters == {"lr": 0.001, "seed": 7, "opt.name": "adam"}
    check_losses(run, 5)
    assert run.notes == ("2 values that are NaN or infinite were left out",)
    assert contents(tmp_path / "trackio") == before
