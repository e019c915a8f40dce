"""The store: copies are made once, are what their names say, and what cannot be copied is told."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import weightspace as ws
from tests.zoo.keeping.planted import compacted, named
from tests.zoo.trees import arrays, make_contested
from tests.zoo.wholeness import content, faults, leftovers
from weightspace.checkpoint import Checkpoint
from weightspace.errors import CatalogError, FormatError
from weightspace.formats import open_checkpoint
from weightspace.zoo import Zoo, store
from weightspace.zoo.keeping.check import check


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


def copied(zoo: Zoo, tree: Path) -> Path:
    """The one file of a store into which one model was copied."""
    tree.mkdir()
    save_file(arrays(1), tree / "one.safetensors")
    assert zoo.ingest(tree, jobs=1, copy=True).catalogued == 1
    [path] = (zoo.catalog.home / "store").glob("*/*")
    return path


@pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
def test_a_copy_that_is_gone_or_cut_is_made_anew_from_a_known_source_as_from_a_new_one(zoo: Zoo, tmp_path: Path, damage: str) -> None:
    path = copied(zoo, tmp_path / "tree")
    whole, rows = path.read_bytes(), zoo.files().to_pylist()
    (tmp_path / "new").mkdir()
    shutil.copyfile(tmp_path / "tree/one.safetensors", tmp_path / "new/again.safetensors")
    for source in ("tree", "new"):
        path.unlink()
        if damage != "gone":
            path.write_bytes(whole[:90] if damage == "cut" else b"")
        assert zoo.ingest(tmp_path / source, jobs=1, copy=True).catalogued == 1
        assert path.read_bytes() == whole and check(zoo, jobs=1, grace=0).is_sound
        assert zoo.ingest(tmp_path / source, jobs=1, copy=True).unchanged == 1
    assert zoo.files("path like '.weightspace/store/%'").num_rows == 1 and zoo.files().num_rows == len(rows) + 1


def test_a_copy_changed_inside_is_made_anew_from_a_source_that_is_read_and_what_its_row_says_stays(zoo: Zoo, tmp_path: Path) -> None:
    path = copied(zoo, tmp_path / "tree")
    whole = path.read_bytes()
    with zoo.catalog.writing() as connection:
        connection.execute("update files set step = 7 where stamp = 0")
    path.write_bytes(whole[:-1] + b"\x01")
    (tmp_path / "new").mkdir()
    shutil.copyfile(tmp_path / "tree/one.safetensors", tmp_path / "new/again.safetensors")
    zoo.ingest(tmp_path / "new", jobs=1, copy=True)
    assert path.read_bytes() == whole and check(zoo, jobs=1, grace=0).is_sound
    assert zoo.sql("select step from files where stamp = 0").to_pylist() == [{"step": 7}]
    assert [one.read_bytes() for one in (zoo.catalog.home / "damaged").iterdir()] == [whole[:-1] + b"\x01"]


def test_a_damaged_compact_copy_is_made_anew_as_a_plain_one_that_its_row_names(zoo: Zoo, tmp_path: Path) -> None:
    plain = copied(zoo, tmp_path / "tree")
    path = compacted(plain)
    named(zoo.folder, plain, path)
    plain.unlink()
    assert zoo.ingest(tmp_path / "tree", jobs=1, copy=True).unchanged == 1
    path.write_bytes(b"half")
    assert zoo.ingest(tmp_path / "tree", jobs=1, copy=True).catalogued == 1
    assert plain.is_file() and not path.exists() and check(zoo, jobs=1, grace=0).is_sound


def test_wrong_weights_in_the_store_are_not_exported(zoo: Zoo, tmp_path: Path) -> None:
    path = copied(zoo, tmp_path / "tree")
    shutil.rmtree(tmp_path / "tree")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x01")
    with pytest.raises(FormatError, match=r"holds other weights than its name says; mend it with 'weightspace check --repair'") as caught:
        zoo.export("one", tmp_path / "out.safetensors")
    assert "\n" not in str(caught.value) and not (tmp_path / "out.safetensors").exists()
    path.write_bytes(whole)
    assert open_checkpoint(zoo.export("one", tmp_path / "out.safetensors")).id == path.stem
