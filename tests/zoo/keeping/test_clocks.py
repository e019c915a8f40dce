"""Clocks that jump: times that go backwards, files from the future and from before all time change nothing of what is known."""

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from safetensors.numpy import save_file

from tests.zoo.keeping.planted import arrays
from tests.zoo.wholeness import faults
from weightspace.zoo import Zoo, write
from weightspace.zoo.keeping.backup import backup
from weightspace.zoo.keeping.check import check
from weightspace.zoo.keeping.restoring import restore


@pytest.fixture
def backwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock tells an hour less."""

    def times() -> Iterator[datetime]:
        at = datetime(2030, 1, 1)
        while True:
            yield at
            at -= timedelta(hours=1)

    clock = times()
    monkeypatch.setattr(write, "now", lambda: next(clock))


@pytest.mark.usefixtures("backwards")
def test_a_clock_that_runs_backwards_loses_nothing(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo")
    for seed in range(3):
        save_file(arrays(seed), tmp_path / f"model-{seed}.safetensors")
        zoo.ingest(tmp_path / f"model-{seed}.safetensors", jobs=1)
        zoo.record(f"model-{seed}", metrics={"loss": seed})
    zoo.record("model-0", metrics={"loss": 5.0})
    assert zoo.sql("select loss from model_table order by name").to_pylist() == [{"loss": 5.0}, {"loss": 1.0}, {"loss": 2.0}]
    catalogued = [row["catalogued"] for row in zoo.sql("select catalogued from models order by model_id").to_pylist()]
    assert catalogued == sorted(catalogued, reverse=True)
    assert faults(zoo) == [] and check(zoo, jobs=1).is_sound
    backup(zoo, tmp_path / "kept", weights=True)
    restore(tmp_path / "kept", zoo, force=True)
    assert check(zoo, jobs=1).is_sound


@pytest.mark.parametrize("seconds", [-1, 0, 1, 4e9, 1.5e10])
def test_a_file_of_any_time_is_catalogued_once_and_known_again(tmp_path: Path, seconds: float) -> None:
    zoo, path = Zoo(tmp_path / "zoo"), tmp_path / "model.safetensors"
    save_file(arrays(0), path)
    os.utime(path, (seconds, seconds))
    assert zoo.ingest(path, jobs=1).catalogued == 1 and zoo.ingest(path, jobs=1).unchanged == 1
    assert check(zoo, jobs=1).is_sound


@pytest.mark.parametrize(("before", "after"), [(2e9, 1e9), (4e9, 1e9), (1e9, 4e9), (1e9, 0)])
def test_a_change_is_seen_whichever_way_the_time_went(tmp_path: Path, before: float, after: float) -> None:
    zoo, path = Zoo(tmp_path / "zoo"), tmp_path / "model.safetensors"
    for seed, seconds in ((0, before), (1, after)):
        save_file(arrays(seed), path)
        os.utime(path, (seconds, seconds))
        if seed:
            assert [one.kind for one in check(zoo, jobs=1).findings] == ["changed", "damaged"]
        assert zoo.ingest(path, jobs=1).catalogued == 1
    assert zoo.sql("select count(*) as n from files").to_pylist() == [{"n": 1}]


def test_other_content_of_the_same_size_and_time_is_seen_by_check(tmp_path: Path) -> None:
    zoo, path = Zoo(tmp_path / "zoo"), tmp_path / "model.safetensors"
    for seed in (0, 1):
        save_file(arrays(seed), path)
        os.utime(path, (1e9, 1e9))
        zoo.ingest(path, jobs=1)
    assert check(zoo, jobs=1, quick=True).is_sound
    assert [one.kind for one in check(zoo, jobs=1).findings] == ["damaged"]


def test_stored_weights_do_not_hang_on_times(tmp_path: Path) -> None:
    zoo = Zoo(tmp_path / "zoo")
    save_file(arrays(0), tmp_path / "small.safetensors")
    zoo.ingest(tmp_path / "small.safetensors", jobs=1, copy=True)
    for path in (zoo.catalog.home / "store").rglob("*.safetensors"):
        os.utime(path, (4e9, 4e9))
    (tmp_path / "small.safetensors").unlink()
    assert zoo.open("small").num_params == 42
    assert [one.kind for one in check(zoo, jobs=1).findings] == ["missing"]
