"""Compacting: models stay what they are to the last bit, take less, and open, compare and export as before; restoring gives the same files."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import weightspace as ws
from tests.zoo.store.files import family, held, network, stored_files, tuned
from tests.zoo.wholeness import faults
from weightspace.errors import CatalogError, FormatError
from weightspace.formats.compact import needs
from weightspace.storage import SourceFile
from weightspace.zoo import Zoo
from weightspace.zoo.store.graph import LONGEST, Needs


@pytest.fixture
def zoo(tmp_path: Path) -> Zoo:
    return Zoo(tmp_path / "zoo")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_family_takes_less_and_comes_back_byte_for_byte(zoo: Zoo, dtype: torch.dtype) -> None:
    ids = family(zoo, dtype=dtype)
    before = held(zoo)
    report = zoo.compact(jobs=2)
    assert (report.models, report.changed, report.refused) == (4, 4, []) and report.after < 0.7 * report.before
    assert report.after == sum(map(len, held(zoo).values())) and held(zoo, ".safetensors") == {}
    assert faults(zoo) == []
    for name, one in ids.items():
        opened = zoo.open(name)
        assert (opened.format, opened.id) == ("compact", one)
        assert all(torch.equal(opened[tensor], network(0, dtype)[tensor]) for tensor in opened if name == "base0" or tensor == "embed")
    assert zoo.files()["format"].to_pylist() == ["compact"] * 4
    again = zoo.restore_store(jobs=2)
    assert (again.changed, again.before, again.after) == (4, report.after, report.before)
    assert held(zoo) == before and faults(zoo) == []


def test_a_dry_run_tells_exactly_what_would_be_saved_and_changes_nothing(zoo: Zoo) -> None:
    family(zoo)
    before, rows = held(zoo), zoo.files().to_pylist()
    told = zoo.compact(dry_run=True)
    assert held(zoo) == before and zoo.files().to_pylist() == rows
    done = zoo.compact()
    assert (told.changed, told.before, told.after) == (done.changed, done.before, done.after)


def test_what_was_compacted_is_left_alone_and_what_is_new_joins_its_family(zoo: Zoo) -> None:
    family(zoo, children=1)
    zoo.compact()
    before = held(zoo)
    assert zoo.compact().changed == 0 and held(zoo) == before
    zoo.add(tuned(network(0), 77), "late")
    assert zoo.compact().changed == 1
    assert needs(SourceFile.at(stored_files(zoo)[zoo.open("late").id])) == (zoo.open("base0").id,)


def test_a_tensor_that_several_models_have_is_kept_once(zoo: Zoo) -> None:
    noise = torch.randint(0, 256, (100_000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    zoo.add({"a": noise, "own": torch.zeros(3)}, "one")
    zoo.add({"b": noise, "again": noise.clone(), "own": torch.ones(3)}, "two")
    zoo.add({"c": noise, "tied": (shared := torch.arange(9.0)), "other": shared}, "three")
    report = zoo.compact()
    assert report.after < 120_000 < 3 * 100_000 < report.before
    two, three = zoo.open("two"), zoo.open("three")
    assert torch.equal(two["again"], noise) and torch.equal(three["c"], noise)
    assert {name for name, one in three.info.items() if one.alias_of} & {"tied", "other"}
    assert faults(zoo) == []


def test_what_does_not_shrink_stays_as_it_is(zoo: Zoo) -> None:
    noise = torch.randint(0, 256, (10_000,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    zoo.add({"noise": noise}, "noise")
    before = held(zoo)
    report = zoo.compact()
    assert report.changed == 0 and report.before == report.after and held(zoo) == before


def test_only_the_models_asked_for_are_compacted_and_the_others_may_be_their_bases(zoo: Zoo) -> None:
    ids = family(zoo)
    assert zoo.compact("name = 'base0-0'").changed == 1
    assert [path.suffix for path in map(stored_files(zoo).get, ids.values()) if path] == [
        ".safetensors",
        ".compact",
        ".safetensors",
        ".safetensors",
    ]
    assert needs(SourceFile.at(stored_files(zoo)[ids["base0-0"]])) == (ids["base0"],)
    # The base may not now be kept as what differs from its own child.
    zoo.compact()
    assert ids["base0-0"] not in needs(SourceFile.at(stored_files(zoo)[ids["base0"]]))
    assert faults(zoo) == []
    assert zoo.restore_store("name = 'base0'").changed == 1 and faults(zoo) == []


def test_chains_of_checkpoints_are_no_longer_than_they_may_be(zoo: Zoo) -> None:
    step, ids = network(3), []
    for at in range(8):
        ids.append(zoo.add(step, f"step{at}", parents=[f"step{at - 1}"] if at else ()))
        step = tuned(step, at, 1e-5)
    zoo.compact()
    graph = Needs({one: needs(SourceFile.at(path)) for one, path in stored_files(zoo).items()})
    assert max(map(graph.below, ids)) == LONGEST and faults(zoo) == []


def test_networks_of_independent_seeds_are_no_family(zoo: Zoo) -> None:
    for seed in range(3):
        zoo.add(network(seed), f"seed{seed}")
    zoo.compact()
    assert all(needs(SourceFile.at(path)) == () for path in stored_files(zoo).values() if path.suffix == ".compact")


def test_families_are_told_with_what_they_take(zoo: Zoo) -> None:
    family(zoo, children=2)
    zoo.add(network(9), "alone")
    before = zoo.store_families()
    assert [(row["family"], row["models"], row["compact"]) for row in before] == [("base0", 2, 0), (None, 2, 0)]
    zoo.compact()
    first, rest = zoo.store_families()
    assert (first["family"], first["models"], first["compact"], rest["models"]) == ("base0", 3, 3, 1)
    assert first["kept"] < 0.7 * first["bytes"] and first["saved"] == 1 - first["kept"] / first["bytes"]


def test_everything_else_goes_on_as_before(zoo: Zoo, tmp_path: Path) -> None:
    family(zoo, children=1)
    files = {name: zoo.export(name, tmp_path / f"{name}.safetensors").read_bytes() for name in ("base0", "base0-0")}
    differences = list(zoo.diff("base0", "base0-0"))
    zoo.compact()
    assert {name: zoo.export(name, tmp_path / f"{name}.safetensors").read_bytes() for name in files} == files
    assert list(zoo.diff("base0", "base0-0")) == differences
    means = zoo.map(lambda one: {"mean": float(one["embed"].mean())}, measure="mean", version="1")
    assert means["mean"].to_pylist() == [pytest.approx(float(network(0)["embed"].mean()))] * 2
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(zoo.folder)
        assert ws.open("base0-0").format == "compact"
        [path] = [path for path in stored_files(zoo).values() if path.stem == zoo.open("base0").id]
        assert zoo.open(str(path.relative_to(zoo.folder))).id == path.stem == ws.open(path).id
    # What is there in compact form is not written again.
    zoo.add(network(0), "base0")
    assert held(zoo, ".safetensors") == {} and faults(zoo) == []
    (tmp_path / "tree").mkdir()
    zoo.export("base0", tmp_path / "tree/a.safetensors")
    zoo.ingest(tmp_path / "tree", jobs=1, copy=True)
    assert held(zoo, ".safetensors") == {} and faults(zoo) == []


def test_a_reader_that_has_a_file_open_reads_on_or_is_told(zoo: Zoo) -> None:
    ids = family(zoo, children=1, width=256)
    child = zoo.open("base0-0")
    first = child["embed"]
    zoo.compact()
    try:
        assert torch.equal(child["up.weight"], zoo.open("base0-0")["up.weight"])
    except FormatError as error:
        assert "cannot be read" in str(error)
    assert torch.equal(first, zoo.open(ids["base0"])["embed"])
    child = zoo.open("base0-0")
    assert torch.equal(child["embed"], first)
    zoo.restore_store()
    try:
        assert torch.equal(child["up.weight"], zoo.open("base0-0")["up.weight"])
    except FormatError as error:
        assert "cannot be read" in str(error)


def test_only_one_process_compacts_at_a_time(zoo: Zoo) -> None:
    family(zoo, children=1)
    script = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'a+b'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(zoo.catalog.home / "tending")], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline()
        with pytest.raises(CatalogError, match="another process is compacting, restoring or collecting here; wait until it is done"):
            zoo.compact()
        process.kill()
    assert zoo.compact().changed == 2


def test_a_damaged_model_stays_as_it_is_and_is_nobodys_base(zoo: Zoo) -> None:
    ids = family(zoo, children=2)
    path = stored_files(zoo)[ids["base0"]]
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 1
    path.write_bytes(raw)
    report = zoo.compact()
    [(name, why)] = report.refused
    assert name == "base0" and "does not hold the weights that its name says; it is damaged, so run" in why and path.read_bytes() == raw
    for name in ("base0-0", "base0-1"):
        assert zoo.open(name).id == ids[name]
        found = stored_files(zoo)[ids[name]]
        assert found.suffix == ".safetensors" or ids["base0"] not in needs(SourceFile.at(found))


def test_a_model_whose_base_is_gone_says_so_in_one_line(zoo: Zoo) -> None:
    ids = family(zoo, children=1)
    zoo.compact()
    stored_files(zoo)[ids["base0"]].unlink()
    with pytest.raises(
        FormatError, match=f"is kept as what differs from model {ids['base0'][:12]}, which the store does not have; bring that"
    ):
        zoo.open("base0-0")
