"""nfn's SIREN sets: labels in folder names, splits by ranges of the image's index, augmented copies."""

from pathlib import Path

import pytest

from tests.zoo.siren_files import hostile, save, siren
from weightspace.errors import RecordError
from weightspace.zoo import Zoo

RUNS = "select name, split, source_item as item, tags->>'label' as label, hyperparameters->>'augmentation' as copy from runs order by name"


@pytest.fixture
def sirens(tmp_path: Path) -> Path:
    root = tmp_path / "siren_mnist_wts"
    for seed, (folder, index) in enumerate(
        [("randinit_smaller_3s", 12), ("randinit_smaller_aug0_3s", 12), ("randinit_smaller_0s", 45_000), ("randinit_smaller_9s", 50_001)]
    ):
        save(siren(seed, "net.{}.linear"), root / folder / f"net{index}.pth")
    return root


def test_index_and_folder_tell_split_label_and_item(sirens: Path, tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo")
    report = zoo.import_runs(sirens)
    assert report.notes == [] and len(report.matches) == 4
    assert [tuple(row.values()) for row in zoo.sql(RUNS).to_pylist()] == [
        ("randinit_smaller_0s/net45000", "val", "siren_mnist_wts:45000", "0", None),
        ("randinit_smaller_3s/net12", "train", "siren_mnist_wts:12", "3", None),
        ("randinit_smaller_9s/net50001", "test", "siren_mnist_wts:50001", "9", None),
        ("randinit_smaller_aug0_3s/net12", "train", "siren_mnist_wts:12", "3", "0"),
    ]
    assert list(zoo.open("randinit_smaller_9s/net50001")) == list(siren(3, "net.{}.linear"))
    labels = zoo.sql("select distinct key from tags").to_pylist()
    assert labels == [{"key": "label"}]


def test_an_index_under_two_labels_and_a_hostile_file_are_told(sirens: Path, tmp_path: Path) -> None:
    save(siren(7, "net.{}.linear"), sirens / "randinit_smaller_aug1_4s/net12.pth")
    hostile(sirens / "randinit_smaller_4s/net77.pth")
    report = Zoo(tmp_path / "zoo").import_runs(sirens)
    [note] = report.notes
    assert "1 networks lie under another label" in note
    assert report.networks is not None and len(report.networks.quarantined) == 1 and report.networks.catalogued == 5


def test_an_empty_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no '<prefix>_<label>s/net<index>\.pth' there"):
        Zoo(tmp_path).import_runs(tmp_path, reader="nfn")
