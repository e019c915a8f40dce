"""The store: copies are made once, are what their names say, and what cannot be copied is told."""

from pathlib import Path

import numpy as np
import pytest

import weightspace as ws
from tests.zoo.trees import arrays, make_contested
from tests.zoo.wholeness import content, faults, leftovers
from weightspace.checkpoint import Checkpoint
from weightspace.errors import CatalogError, FormatError
from weightspace.formats import open_checkpoint
from weightspace.zoo import Zoo, store


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return Zoo(tmp_path / "zoo")


def test_copies_of_one_content_are_stored_once(zoo: Zoo, tmp_path: Path) -> None:
    make_contested(tmp_path / "tree")
    zoo.ingest(tmp_path / "tree", jobs=1, copy=True)
    assert zoo.files("path like '.weightspace/store/%'").num_rows == 1
    assert faults(zoo) == [] and leftovers(zoo) == []


def test_the_first_to_say_something_is_believed_within_a_batch_as_across_batches(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_contested(tmp_path / "tree")
    zoo.ingest(tmp_path / "tree", jobs=1)
    monkeypatch.setattr("weightspace.zoo.ingest.TASK_FILES", 1)
    monkeypatch.setattr("weightspace.zoo.ingest.FLUSH_TENSORS", 0)
    other = Zoo(tmp_path / "other")
    other.ingest(tmp_path / "tree", jobs=1)
    assert content(zoo) == content(other)
    [row] = zoo.models().to_pylist()
    assert row["licence"] == "MIT" and row["base_model"] == "some/base"


def test_what_is_known_already_is_copied_when_asked_for_and_read_no_more_after(zoo: Zoo, tmp_path: Path) -> None:
    make_contested(tmp_path / "tree")
    zoo.ingest(tmp_path / "tree", jobs=1)
    assert not (zoo.catalog.home / "store").exists()
    zoo.ingest(tmp_path / "tree", jobs=1, copy=True)
    assert zoo.files("path like '.weightspace/store/%'").num_rows == 1 and faults(zoo) == []
    assert zoo.ingest(tmp_path / "tree", jobs=1, copy=True).unchanged == 3


def test_what_safetensors_cannot_hold_is_catalogued_and_told(zoo: Zoo, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    np.savez(tmp_path / "tree/complex.npz", w=np.ones(3, np.complex128), b=np.ones(3, np.float32))
    np.savez(tmp_path / "tree/plain.npz", **arrays(1))  # type: ignore[arg-type]
    report = zoo.ingest(tmp_path / "tree", jobs=1, copy=True)
    assert report.catalogued == 2 and not report.quarantined
    [refusal] = report.not_copied
    assert refusal.reason == "unsupported" and refusal.detail == "tensor 'w' has dtype C128, which safetensors cannot hold"
    assert faults(zoo) == [] and leftovers(zoo) == []


def test_weights_that_change_while_being_copied_do_not_enter_the_store(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **arrays(1))  # type: ignore[arg-type]
    checkpoint = open_checkpoint(tmp_path / "a.npz")
    with pytest.raises(FormatError, match="changed while being copied; ingest it again when it is finished"):
        store.put(tmp_path / ".weightspace", checkpoint, "0" * 64)
    assert [path for path in (tmp_path / ".weightspace").rglob("*") if path.is_file()] == []


def test_a_store_that_cannot_be_written_ends_the_ingest_with_one_clear_line(zoo: Zoo, tmp_path: Path) -> None:
    make_contested(tmp_path / "tree")
    zoo.create()
    (zoo.catalog.home / "store").write_text("in the way")
    with pytest.raises(CatalogError, match=r"cannot be written \(.*\); check the folder, its permissions and the free space"):
        zoo.ingest(tmp_path / "tree", jobs=1, copy=True)
    (zoo.catalog.home / "store").unlink()
    zoo.ingest(tmp_path / "tree", jobs=1, copy=True)
    assert faults(zoo) == []


def test_adding_the_same_weights_twice_at_once_makes_one_file(zoo: Zoo, tmp_path: Path) -> None:
    from weightspace.zoo.zoo import Added

    np.savez(tmp_path / "a.npz", **arrays(1))  # type: ignore[arg-type]
    checkpoint: Checkpoint = ws.open(tmp_path / "a.npz")
    zoo.add_many([Added(checkpoint, "one", tags={"a": "1"}), Added(checkpoint, "two", tags={"b": "2"})])
    assert faults(zoo) == [] and zoo.page("one").tags == {"a": "1", "b": "2"}
