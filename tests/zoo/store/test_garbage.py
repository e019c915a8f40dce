"""Garbage goes, and nothing else: not what is catalogued, what a compact model needs, what is young, or what was just asked for again."""

import os
import time
from pathlib import Path

import pytest
import torch

from tests.zoo.keeping.planted import flip
from tests.zoo.store.files import Tensors, family, held, network, stored_files
from tests.zoo.wholeness import faults
from weightspace.checkpoint import Checkpoint
from weightspace.zoo import Zoo, store

DAY = 86400.0


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return Zoo(tmp_path / "zoo")


def failed_add(zoo: Zoo, tensors: Tensors) -> Path:
    """What is left of an add that was killed before it catalogued its model."""
    checkpoint = Checkpoint.of(tensors)
    return zoo.folder / store.put(zoo.catalog.home, checkpoint, checkpoint.id).path


def later(monkeypatch: pytest.MonkeyPatch, seconds: float = DAY) -> None:
    now = time.time
    monkeypatch.setattr("weightspace.zoo.store.garbage.time.time", lambda: now() + seconds)


def test_what_nobody_names_goes_when_it_is_old(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    family(zoo, children=1)
    orphan = failed_add(zoo, network(9))
    scratch = orphan.with_name(f".{orphan.stem}.abcd.new")
    scratch.write_bytes(b"half")
    kept = zoo.cache
    kept[f"{zoo.open('base0').tensor_hash('embed').hex()}/svd"] = {"s": torch.ones(2)}
    kept["00" * 32 + "/svd"] = {"s": torch.ones(2)}
    notes = zoo.catalog.home / "store" / "notes.txt"
    notes.write_text("not ours")
    assert zoo.collect_garbage() == []
    later(monkeypatch)
    told = zoo.collect_garbage(dry_run=True)
    assert orphan.exists() and scratch.exists() and len(kept) == 2
    assert sorted(one.why for one in told) == ["cache", "scratch", "uncatalogued"]
    assert {one.size for one in told if one.why == "uncatalogued"} == {orphan.stat().st_size}
    assert zoo.collect_garbage() == told
    assert not orphan.exists() and not scratch.exists() and notes.exists() and len(kept) == 1
    assert faults(zoo) == [] and zoo.collect_garbage() == []


def test_a_forgotten_base_stays_as_long_as_a_compact_model_needs_it(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = family(zoo, children=2)
    zoo.compact()
    assert zoo.forget(["base0", "base0-1"]) == 2
    assert zoo.models()["name"].to_pylist() == ["base0-0"] and faults(zoo) == []
    later(monkeypatch)
    assert [Path(one.path).stem for one in zoo.collect_garbage()] == [ids["base0-1"]]
    assert zoo.open("base0-0").id == ids["base0-0"]
    zoo.restore_store()
    assert [Path(one.path).stem for one in zoo.collect_garbage()] == [ids["base0"]]
    assert zoo.open("base0-0").id == ids["base0-0"] and faults(zoo) == []


def test_what_is_asked_for_again_is_young_again_and_its_readers_do_not_notice(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    zoo.create()
    path = failed_add(zoo, network(9))
    opened, before = store.open_stored(zoo.catalog.home, path.stem), path.stat()
    assert opened is not None and opened["up.bias"].numel() == 128
    time.sleep(0.02)
    mark = time.time()
    failed_add(zoo, network(9))
    assert path.stat().st_mtime_ns == before.st_mtime_ns and path.stat().st_ctime > mark - 0.015
    assert torch.equal(opened["embed"], network(9)["embed"])
    assert zoo.collect_garbage(spare=time.time() - mark + 0.015) == []
    later(monkeypatch)
    assert len(zoo.collect_garbage()) == 1


def test_the_form_that_does_not_count_goes(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a compaction leaves that is killed between telling the catalog and removing the old file."""
    ids = family(zoo, children=1)
    before = held(zoo)
    zoo.compact()
    plain = stored_files(zoo)[ids["base0"]].with_suffix(".safetensors")
    plain.write_bytes(before[plain.name])
    later(monkeypatch)
    [garbage] = zoo.collect_garbage()
    assert (garbage.why, Path(garbage.path).name) == ("superseded", plain.name) and faults(zoo) == []
    plain.write_bytes(before[plain.name])
    os.truncate(stored_files(zoo)[ids["base0"]].with_suffix(".compact"), 100)
    assert zoo.collect_garbage() == [] and zoo.open("base0").id == ids["base0"]


def test_the_only_whole_form_stays_although_the_catalog_names_the_other(zoo: Zoo, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = family(zoo, children=0)
    plain = stored_files(zoo)[ids["base0"]]
    kept = plain.read_bytes()
    zoo.compact()
    plain.write_bytes(kept)
    compact = plain.with_suffix(".compact")
    flip(compact, 40_000)  # its header is whole
    later(monkeypatch)
    assert zoo.collect_garbage() == [] and plain.read_bytes() == kept
    flip(compact, 40_000)
    assert [one.why for one in zoo.collect_garbage()] == ["superseded"] and not plain.exists()


def test_forgetting_takes_all_that_was_recorded(zoo: Zoo) -> None:
    family(zoo, children=2)
    zoo.record("base0-0", metrics={"accuracy": 0.5}, tags={"good": ""})
    zoo.map_pairs(lambda a, b: {"d": 1.0}, measure="d")
    zoo.map(lambda one: {"n": len(one)}, measure="n")
    zoo.record_embeddings("net", "1", {"base0-0": [1.0, 2.0]})
    zoo.forget(["base0-0"])
    assert faults(zoo) == [] and zoo.models()["name"].to_pylist() == ["base0", "base0-1"]
    left = {
        table: zoo.sql(f"select count(*) as n from {table}").to_pylist()[0]["n"]
        for table in ("metrics", "tags", "edges", "embeddings", "pair_measurements", "measurements")
    }
    assert left == {"metrics": 0, "tags": 0, "edges": 0, "embeddings": 0, "pair_measurements": 1, "measurements": 2}
    with pytest.raises(KeyError, match="no model 'base0-0' in this zoo"):
        zoo.forget(["base0", "base0-0"])
    assert zoo.models().num_rows == 2
