"""HSG's model zoos: trial folders of ray.tune."""

import json
import random
from pathlib import Path

import pytest

from tests.zoo.siren_files import hostile, save, siren
from weightspace.errors import RecordError
from weightspace.zoo import Zoo

CONFIG = {"seed": 7, "optim::lr": 0.001, "model::type": "CNN", "model::nlin": "tanh"}


def trial(root: Path, number: int, epochs: tuple[str, ...] = ("000000", "000001"), params: bool = True) -> Path:
    folder = root / f"NN_tune_trainable_{number:05d}_seed={number}"
    for epoch in epochs:
        save(siren(10 * number + int(epoch), "module_list.{}"), folder / f"checkpoint_{epoch}/checkpoints")
        save({"state": {}, "param_groups": []}, folder / f"checkpoint_{epoch}/optimizer")
    rows = [
        {
            "train_loss": -999,
            "train_acc": -999,
            "test_loss": 2.3,
            "test_acc": 0.1,
            "training_iteration": 0,
            "config": CONFIG,
            "time_total_s": 1.0,
        },
        {
            "train_loss": 1.5,
            "train_acc": 0.4,
            "test_loss": 1.2,
            "test_acc": 0.5,
            "training_iteration": 1,
            "config": CONFIG,
            "time_total_s": 2.0,
        },
    ]
    (folder / "result.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if params:
        (folder / "params.json").write_text(json.dumps(CONFIG | {"seed": number}))
    return folder


def test_trials_are_runs_with_epochs_metrics_and_settings(tmp_path: Path) -> None:
    root = tmp_path / "tune_zoo_mnist"
    trial(root, 0)
    trial(root, 1, ("0", "1"), params=False)  # the other way in which epochs are written
    (root / "index_dict.json").write_text(json.dumps({"layer": [[0, "conv2d"], [3, "fc"]]}))
    zoo = Zoo(tmp_path / "zoo")
    report = zoo.import_runs(root)
    assert (report.runs, report.points, len(report.matches), report.notes) == (2, 12, 4, [])
    rows = zoo.models(order_by="run, step").to_pylist()
    assert [(row["step"], row["test_acc"], row["train_loss"], row["seed"]) for row in rows] == [
        (0, 0.1, None, 0),
        (1, 0.5, 1.5, 0),
        (0, 0.1, None, 7),
        (1, 0.5, 1.5, 7),
    ]
    [runs] = zoo.sql(
        "select count(*) as n, any_value(hyperparameters->>'optim::lr') as lr, any_value(tags->>'layers') as layers from runs"
    ).to_pylist()
    assert runs == {"n": 2, "lr": "0.001", "layers": "[[0, 'conv2d'], [3, 'fc']]"}
    assert zoo.sql("select distinct source from runs").to_pylist() == [{"source": "hsg"}]
    assert len(zoo.open(rows[1]["name"])) == 6


def test_splits_are_by_trial_and_the_same_each_time(tmp_path: Path) -> None:
    root = tmp_path / "zoo_of_20"
    for number in range(20):
        trial(root, number, ("000001",))
    zoo = Zoo(tmp_path / "zoo")
    zoo.import_runs(root)
    found = {row["name"]: row["split"] for row in zoo.sql("select name, split from runs").to_pylist()}
    names = sorted(found)
    random.Random(42).shuffle(names)
    assert [found[name] for name in names] == ["train"] * 14 + ["val"] * 3 + ["test"] * 3


def test_ingesting_the_folder_afterwards_changes_nothing(tmp_path: Path) -> None:
    root = tmp_path / "trials"
    trial(root, 0)
    for folder in root.glob("*/checkpoint_*"):
        (folder / "optimizer").unlink()
    zoo = Zoo(tmp_path / "zoo")
    zoo.import_runs(root)
    before = zoo.files().drop_columns(["ingested"])
    report = zoo.ingest(root)
    assert report.unchanged == 2 and zoo.files().drop_columns(["ingested"]) == before


def test_damaged_results_and_hostile_networks_cost_only_themselves(tmp_path: Path) -> None:
    root = tmp_path / "trials"
    (trial(root, 0) / "result.json").write_text("{broken\n{}\n")
    hostile(trial(root, 1) / "checkpoint_000001/checkpoints")
    zoo = Zoo(tmp_path / "zoo")
    report = zoo.import_runs(root)
    [note] = report.notes
    assert "result.json line 1: expected JSON" in note
    assert (
        report.networks is not None
        and report.networks.catalogued == 3
        and [one.reason for one in report.networks.quarantined] == ["needs-code"]
    )
    assert {row["checkpoints"] for row in zoo.runs().to_pylist()} == {1, 2}


def test_a_pickled_dataset_alone_is_one_clear_line(tmp_path: Path) -> None:
    hostile(tmp_path / "dataset.pt")
    with pytest.raises(RecordError, match=r"unpack a zoo.s raw archive, not dataset\.pt"):
        Zoo(tmp_path).import_runs(tmp_path, reader="hsg")
