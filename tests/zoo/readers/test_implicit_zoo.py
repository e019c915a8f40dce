"""Implicit-Zoo: image and seed in the file's name, PSNR by image in JSON, labels and splits joined."""

import json
from pathlib import Path

import pytest

from tests.zoo.siren_files import hostile, save, siren
from weightspace.errors import RecordError
from weightspace.zoo import Zoo

RUNS = "select name, seed, source_item as item, split, tags->>'label' as label from runs order by name"


@pytest.fixture
def sirens(tmp_path: Path) -> Path:
    root = tmp_path / "cifar10-inrs"
    for image, label in ((0, 6), (1, 9), (2, 9)):
        for seed in (image, image + 1):
            path = root / f"ckpts/{label:02d}/{image:06d}_{seed:07d}.ckpt"
            save({"image_idx": image, "params": siren(10 * image + seed, "net.{}")}, path)
    (root / "0_3.json").write_text(json.dumps({"0": 31.5, "1": 30.25, "2": float("nan")}))
    return root


def test_psnr_label_seed_and_item_are_joined(sirens: Path, tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo")
    report = zoo.import_runs(sirens)
    assert (report.runs, report.points, len(report.matches), report.notes) == (6, 2, 6, [])
    assert [tuple(row.values()) for row in zoo.sql(RUNS).to_pylist()][:3] == [
        ("ckpts/06/000000_0000000", 0, "cifar10-inrs:0", None, "6"),
        ("ckpts/06/000000_0000001", 1, "cifar10-inrs:0", None, "6"),
        ("ckpts/09/000001_0000001", 1, "cifar10-inrs:1", None, "9"),
    ]
    # The file keeps one PSNR an image, that of the seed fitted last.
    assert [row["psnr"] for row in zoo.models(order_by="name").to_pylist()] == [None, 31.5, None, 30.25, None, None]
    assert list(zoo.open("ckpts/06/000000_0000001")) == list(siren(1, "net.{}"))


def test_a_table_of_labels_and_splits_joins_on_the_index(sirens: Path, tmp_path: Path) -> None:
    (sirens / "labels.csv").write_text("image_idx,label,split\n0,frog,train\n1,truck,test\n7,cat,test\n")
    zoo = Zoo(tmp_path / "zoo")
    report = zoo.import_runs(sirens)
    assert [(row["split"], row["label"]) for row in zoo.sql(RUNS).to_pylist()] == [("train", "frog")] * 2 + [("test", "truck")] * 2 + [
        (None, "9")
    ] * 2
    assert report.notes == [f"{sirens}: 1 images have a PSNR or a label, but no network here"]


def test_train_and_test_images_of_one_index_are_not_one(tmp_path: Path) -> None:
    for seed, part in enumerate(("train", "test")):
        save({"image_idx": 0, "params": siren(seed, "net.{}")}, tmp_path / f"inrs/{part}/ckpts/03/000000_0000042.ckpt")
        (tmp_path / f"inrs/{part}/0_1.json").write_text(json.dumps({"0": 30.0 + seed}))
    zoo = Zoo(tmp_path / "zoo")
    zoo.import_runs(tmp_path / "inrs")
    assert [(row["item"], row["split"]) for row in zoo.sql(RUNS).to_pylist()] == [("inrs/test:0", "test"), ("inrs/train:0", "train")]
    assert [row["psnr"] for row in zoo.models(order_by="name").to_pylist()] == [31.0, 30.0]


def test_damaged_tables_and_hostile_files_cost_only_themselves(sirens: Path, tmp_path: Path) -> None:
    (sirens / "3_6.json").write_text("[")
    (sirens / "6_9.json").write_text('{"0": 12}')
    (sirens / "labels.csv").write_text("label\nfrog\n")
    hostile(sirens / "ckpts/01/000009_0000009.ckpt")
    report = Zoo(tmp_path / "zoo").import_runs(sirens)
    assert [note.rpartition("/")[2].partition(":")[0] for note in report.notes] == ["3_6.json", "6_9.json", "labels.csv"]
    assert "1 images have another PSNR in an earlier file" in report.notes[1] and "expected a column 'image_idx'" in report.notes[2]
    assert report.networks is not None and report.networks.catalogued == 6 and len(report.networks.quarantined) == 1


def test_an_empty_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no '<image>_<seed>\.ckpt' there"):
        Zoo(tmp_path).import_runs(tmp_path, reader="implicit-zoo")
