"""MNIST-INR: folders that carry label and id, split files with absolute paths of another machine."""

import json
from pathlib import Path

import pytest
import torch

from tests.zoo.siren_files import hostile, save, siren
from weightspace.errors import RecordError
from weightspace.zoo import Zoo
from weightspace.zoo.readers.dwsnets import read
from weightspace.zoo.readers.model_zoos import Training, zoo_reader_for

FOLDERS = ["mnist_png_training_7_11", "mnist_png_training_3_12", "mnist_png_training_0_13", "mnist_png_testing_7_11"]
INSIDE = "checkpoints/model_final.pth"


@pytest.fixture
def sirens(tmp_path: Path) -> Path:
    root = tmp_path / "mnist-inrs"
    for seed, folder in enumerate(FOLDERS):
        save(siren(seed), root / folder / INSIDE)
    return root


def split_file(root: Path, splits: dict[str, list[str]], name: str = "mnist_splits.json") -> Path:
    said = {
        split: {
            "path": [f"/home/somebody/data/mnist-inrs/{one}/{INSIDE}" for one in folders],
            "label": [one.split("_")[3] for one in folders],
        }
        for split, folders in splits.items()
    }
    path = root / name
    path.write_text(json.dumps(said))
    return path


def table(zoo: Zoo) -> list[tuple[str, str | None, str | None, str]]:
    return [
        tuple(row.values())
        for row in zoo.sql(
            "select models.name, runs.split, runs.source_item, tags.value from models join files using (model_id) join runs using (run_id)"
            " join tags on tags.model_id = models.model_id and tags.key = 'label' order by 1"
        ).to_pylist()
    ]


def test_names_give_label_item_and_split(sirens: Path, tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo")
    report = zoo.import_runs(sirens)
    assert report.runs == 4 and report.networks is not None and report.networks.catalogued == report.networks.new_models == 4
    assert table(zoo) == [
        ("mnist_png_testing_7_11/checkpoints/model_final", "test", "mnist_png_testing_7_11", "7"),
        ("mnist_png_training_0_13/checkpoints/model_final", "train", "mnist_png_training_0_13", "0"),
        ("mnist_png_training_3_12/checkpoints/model_final", "train", "mnist_png_training_3_12", "3"),
        ("mnist_png_training_7_11/checkpoints/model_final", "train", "mnist_png_training_7_11", "7"),
    ]
    settings = zoo.sql("select distinct hyperparameters->>'w0' as w0, hyperparameters->>'output_offset' as at from runs").to_pylist()
    assert settings == [{"w0": "30.0", "at": "0.5"}]
    opened = zoo.open("mnist_png_training_3_12/checkpoints/model_final").state_dict()
    assert all(torch.equal(opened[name], tensor) for name, tensor in siren(1).items())


def test_paths_of_another_machine_are_found_here(sirens: Path, tmp_path: Path) -> None:
    path = split_file(sirens, {"train": FOLDERS[:1], "val": FOLDERS[1:3], "test": FOLDERS[3:]})
    for source in (sirens, path):
        zoo = Zoo(tmp_path / f"zoo of {source.name}")
        report = zoo.import_runs(source)
        assert report.notes == [] and [row[1] for row in table(zoo)] == ["test", "val", "val", "train"]
        [tags] = zoo.sql("select distinct tags->>'split_file' as file, length(tags->>'split_hash') as digits from runs").to_pylist()
        assert tags == {"file": "mnist_splits.json", "digits": 16}


def test_copies_of_an_image_are_told_from_it_and_share_its_item(tmp_path: Path) -> None:
    for copy in range(3):
        save(siren(copy), tmp_path / f"orbit/mnist_png_testing_6_3665_augmented_{copy}/{INSIDE}")
    zoo = Zoo(tmp_path / "zoo")
    zoo.import_runs(tmp_path / "orbit")
    assert {row[1:] for row in table(zoo)} == {("test", "mnist_png_testing_6_3665", "6")}


def test_a_label_inside_the_file_is_taken_where_nothing_else_tells(tmp_path: Path) -> None:
    root = tmp_path / "fmnist_inrs"
    for at in range(3):
        save({**siren(at), "label": at + 4}, root / f"inr/{at}.pth")
    (root / "splits.json").write_text(
        json.dumps({"train": ["/elsewhere/inr/0.pth", "/elsewhere/inr/1.pth"], "test": ["/elsewhere/inr/2.pth"]})
    )
    zoo = Zoo(tmp_path / "zoo")
    zoo.import_runs(root)
    assert [row[1:] for row in table(zoo)] == [("train", "inr/0.pth", "4"), ("train", "inr/1.pth", "5"), ("test", "inr/2.pth", "6")]


def test_what_is_absent_hostile_or_twice_is_told_and_the_rest_goes_on(
    sirens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    split_file(sirens, {"train": [*FOLDERS[:1], "mnist_png_training_5_99"], "test": FOLDERS[:2]})
    hostile(sirens / "mnist_png_training_1_20" / INSIDE)
    zoo = Zoo(tmp_path / "zoo")
    report = zoo.import_runs(sirens)
    assert report.networks is not None and [one.reason for one in report.networks.quarantined] == ["needs-code"]
    assert not (tmp_path / "hacked").exists()
    assert [note.partition("/")[0] for note in report.notes] == [
        "mnist_splits.json puts 1 files into a second split; they stay in the first",
        "mnist_splits.json names 1 files that are not below ",
        "3 networks below ",
    ]
    assert report.runs == 6 and len(table(zoo)) == 4  # the absent and the hostile one are runs without a checkpoint
    rows = zoo.runs(order_by="name").to_pylist()
    assert [(row["name"], row["split"], row["checkpoints"]) for row in rows if not row["checkpoints"]] == [
        ("mnist_png_training_1_20", None, 0),
        ("mnist_png_training_5_99", "train", 0),
    ]


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"train": {"path": ["a"], "label": []}}, "split 'train' has 1 paths and 0 of 'label'"),
        ({"train": {"path": [3], "label": [1]}}, "split 'train' has int among its paths"),
        ({"training": []}, "expected a JSON object"),
    ],
)
def test_a_split_file_that_is_none_is_one_clear_line(tmp_path: Path, said: object, message: str) -> None:
    path = tmp_path / "splits.json"
    path.write_text(json.dumps(said))
    from weightspace.zoo.readers.split_files import listed

    with pytest.raises(RecordError, match=message):
        list(listed(path, tmp_path))


def test_paths_do_not_lead_out_of_the_folder(sirens: Path, tmp_path: Path) -> None:
    save(siren(9), tmp_path / "outside.pth")
    (sirens / "splits.json").write_text(json.dumps({"train": {"path": ["../outside.pth"], "label": [1]}}))
    [first, *_] = [one for one in read(sirens) if isinstance(one, Training)]
    assert first.networks == ()


def test_real_orbit_is_catalogued(real_checkpoints: Path, tmp_path: Path) -> None:
    """Files without label or id in their names: plain ingest reads them; the manifest knows the folders they came from."""
    orbit = real_checkpoints / "inr_orbit"
    assert zoo_reader_for(str(orbit)) is None
    manifest = {one["file"]: one["source"] for one in json.loads((real_checkpoints / "manifest.json").read_text())}
    root = tmp_path / "mnist-inrs"
    for path in sorted(orbit.glob("*.pth")):
        [folder] = [part for part in manifest[f"inr_orbit/{path.name}"].split("/") if part.startswith("mnist_png_")]
        (root / folder / "checkpoints").mkdir(parents=True)
        (root / folder / INSIDE).symlink_to(path)
    zoo = Zoo(tmp_path / "zoo")
    report = zoo.import_runs(root)
    assert report.runs == 256 and report.notes == []
    assert {row[1:] for row in table(zoo)} == {("test", "mnist_png_testing_6_3665", "6")} and len(table(zoo)) == 256
    assert zoo.sql("select distinct num_params as n from models").to_pylist() == [{"n": 1185}]
    again = Zoo(tmp_path / "plain")
    assert again.ingest(orbit).catalogued == 256
