"""CNN Wild Park: split file with scores, settings inside the checkpoints."""

import json
from pathlib import Path

import pytest

from tests.zoo.siren_files import hostile, save, siren
from weightspace.zoo import Zoo

CONFIG = {"residual": [-1, 0, -1], "activation": ["relu", "gelu", "tanh"], "num_layers": 3}


@pytest.fixture
def park(tmp_path: Path) -> Path:
    root = tmp_path / "cnn_wild_park"
    splits: dict[str, dict[str, list[object]]] = {}
    for number, split in enumerate(("train", "val", "test")):
        columns = splits.setdefault(split, {"path": [], "score": [], "step": []})
        for step in (5, 10):
            name = f"cifar10_zooV2/NN_tune_trainable_{number}/checkpoint_{step:06d}/checkpoint.pt"
            state = {"model": siren(10 * number + step), "config": CONFIG, "iteration": step, "last_result": {"test/acc": step / 100}}
            save(state, root / name)
            columns["path"].append(name)
            columns["score"].append(step / 100 + number)
            columns["step"].append(step)
    (root / "cnn_park_splits.json").write_text(json.dumps(splits))
    return root


def change(park: Path, split: str, column: str, values: list[object]) -> None:
    path = park / "cnn_park_splits.json"
    said = json.loads(path.read_text())
    said[split][column] += values
    path.write_text(json.dumps(said))


def test_runs_hold_their_epochs_scores_and_settings(park: Path, tmp_path: Path) -> None:
    for source in (park, park / "cnn_park_splits.json"):
        zoo = Zoo(tmp_path / f"zoo of {source.name}")
        report = zoo.import_runs(source)
        assert (report.runs, len(report.matches), report.notes) == (3, 6, [])
        rows = zoo.models(order_by="run, step").to_pylist()
        assert [(row["step"], row["test_acc"]) for row in rows] == [(5, 0.05), (10, 0.1), (5, 1.05), (10, 1.1), (5, 2.05), (10, 2.1)]
        runs = zoo.sql(
            "select split, hyperparameters->>'residual' as r, hyperparameters->>'activation' as a from runs order by name"
        ).to_pylist()
        assert [row["split"] for row in runs] == ["train", "val", "test"]
        assert runs[0]["r"] == "[-1, 0, -1]" and runs[0]["a"] == "['relu', 'gelu', 'tanh']"
        assert list(zoo.open(rows[0]["name"])) == list(siren(5))


def test_a_run_in_two_splits_gets_none(park: Path, tmp_path: Path) -> None:
    change(park, "test", "path", ["cifar10_zooV2/NN_tune_trainable_0/checkpoint_000015/checkpoint.pt"])
    change(park, "test", "score", [0.5])
    change(park, "test", "step", [15])
    zoo = Zoo(tmp_path / "zoo")
    report = zoo.import_runs(park)
    absent, leak = report.notes
    assert absent.startswith("cnn_park_splits.json names 1 files that are not below")
    assert leak.startswith("NN_tune_trainable_0: its checkpoints stand in the splits test and train; it was given none")
    assert [row["split"] for row in zoo.sql("select split from runs order by name").to_pylist()] == [None, "val", "test"]


def test_settings_that_are_no_plain_values_and_hostile_files_cost_only_themselves(park: Path, tmp_path: Path) -> None:
    for step in (5, 10):
        save({"model": siren(step), "iteration": step}, park / f"cifar10_zooV2/NN_tune_trainable_0/checkpoint_{step:06d}/checkpoint.pt")
    hostile(park / "cifar10_zooV2/NN_tune_trainable_1/checkpoint_000010/checkpoint.pt")
    report = Zoo(tmp_path / "zoo").import_runs(park)
    [note] = report.notes
    assert "has no plain 'config' beside its weights" in note
    assert report.networks is not None and report.networks.catalogued == 5 and len(report.networks.quarantined) == 1
