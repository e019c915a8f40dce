"""Importing runs: a tracker's records meet the checkpoints they belong to."""

import json
import os
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.errors import RecordError, UnknownNameError
from weightspace.zoo import Zoo


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    """Two trainings with two checkpoints each, whose numbers are in a log elsewhere."""
    for number, run in enumerate(("alpha", "beta")):
        for step in (10, 20):
            folder = tmp_path / f"out/{run}"
            folder.mkdir(parents=True, exist_ok=True)
            ws.save({"w": torch.full((3,), float(number * 100 + step))}, folder / f"step_{step}.safetensors")
    made = Zoo(tmp_path / "zoo")
    made.ingest(tmp_path / "out", jobs=1)
    return made


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    rows = [
        {"run": run, "step": step, "loss": step / 100 + number, "lr": 0.1}
        for number, run in enumerate(("alpha", "beta"))
        for step in (5, 10, 20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_checkpoints_get_the_metrics_of_their_step(zoo: Zoo, log: Path) -> None:
    report = zoo.import_runs(log)
    assert report.runs == 2 and len(report.matches) == 4
    rows = zoo.models(order_by="name").to_pylist()
    assert [(r["name"], r["run"], r["step"], r["loss"]) for r in rows] == [
        ("alpha/step_10", "alpha", 10, 0.1),
        ("alpha/step_20", "alpha", 20, 0.2),
        ("beta/step_10", "beta", 10, 1.1),
        ("beta/step_20", "beta", 20, 1.2),
    ]
    assert zoo.sql("select count(*) as n from runs").to_pylist() == [{"n": 2}]
    points = zoo.sql("select count(*) as n from metrics where model_id is null and name = 'loss'").to_pylist()
    assert points == [{"n": 6}]


def test_importing_again_changes_nothing(zoo: Zoo, log: Path) -> None:
    question = "select model_id, runs.key, metrics.name, metrics.split, step, value from metrics join runs using (run_id) order by all"
    zoo.import_runs(log)
    before = zoo.sql(question).to_pylist()
    zoo.import_runs(log)
    assert zoo.sql(question).to_pylist() == before


def test_runs_can_be_imported_before_there_are_checkpoints(tmp_path: Path, log: Path) -> None:
    zoo = Zoo(tmp_path / "empty")
    report = zoo.import_runs(log)
    assert report.runs == 2 and not report.matches
    assert zoo.sql("select name from runs order by name").to_pylist() == [{"name": "alpha"}, {"name": "beta"}]


def test_what_matches_no_run_stays_as_it_is(zoo: Zoo, tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(json.dumps({"run": "gamma", "step": 1, "loss": 1.0}) + "\n")
    before = zoo.models().to_pylist()
    report = zoo.import_runs(path)
    assert report.runs == 1 and not report.matches
    assert [row["name"] for row in zoo.models().to_pylist()] == [row["name"] for row in before]


def test_nothing_there_and_nothing_recognised_are_one_clear_line(zoo: Zoo, tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="does not exist; name a tracker's folder, file or server"):
        zoo.import_runs(tmp_path / "nowhere")
    (tmp_path / "x.bin").write_bytes(os.urandom(64))
    with pytest.raises(RecordError, match="no tracker's records and no model zoo are recognised there; readers: "):
        zoo.import_runs(tmp_path / "x.bin")
    with pytest.raises(UnknownNameError, match="no tracker reader named 'wandbb'; did you mean 'wandb'"):
        zoo.import_runs(tmp_path, reader="wandbb")
