"""The store on the command line: what is told, where, and with which exit code."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from tests.zoo.keeping.planted import flip
from tests.zoo.store.files import family, stored_files
from weightspace.cli.commands.store import _FAMILIES
from weightspace.zoo import Zoo


def test_a_store_is_compacted_listed_restored_and_collected(run: Run) -> None:
    ids = family(Zoo(), children=2)
    told = run("store", "compact", "--dry-run", "--where", "starts_with(name, 'base0')")
    assert "3 of 3 models would be compacted: " in told.stderr and "% less)" in told.stderr and told.stdout == ""
    assert "3 of " in run("store", "compact", "--where", "starts_with(name, 'base0')").stderr
    [row] = [row for row in json.loads(run("store", "ls", "--format", "json").stdout) if row["family"] == "base0"]
    assert (row["models"], row["compact"]) == (3, 3) and row["kept"] < row["bytes"]
    assert "base0" in run("store", "ls").stdout
    assert "1 model forgotten; files stay where they are" in run("forget", "base0-0").stderr
    assert run("gc", "--format", "json").stdout == "[]\n"
    [gone] = json.loads(run("gc", "--older-than", "0", "--dry-run", "--format", "json").stdout)
    assert gone["why"] == "uncatalogued" and ids["base0-0"] in gone["path"]
    assert "1 file removed, " in run("gc", "--older-than", "0").stderr
    assert "restored: " in run("store", "restore").stderr and Zoo().open("base0").format == "safetensors"


def test_a_share_of_nothing_has_no_sign() -> None:
    assert [_FAMILIES["saved"].show(share) for share in (-0.0004, 0.25, -0.1)] == ["0.0%", "25.0%", "-10.0%"]


def test_what_is_wrong_is_one_line(run: Run, tmp_path: Path) -> None:
    told = run("forget", "nobody", code=1)
    assert told.stderr.startswith("error: no model 'nobody' in this zoo") and told.stderr.count("\n") == 1
    told = run("store", "compact", "--zoo", str(tmp_path / "nowhere"), code=1)
    assert "has no zoo yet" in told.stderr and not (tmp_path / "nowhere").exists()
    ids = family(Zoo(), children=0)
    stored_files(Zoo())[ids["base0"]].write_bytes(b"no weights any more")
    told = run("store", "compact", "--where", "name = 'base0'", code=1)
    assert "base0: left as it is: " in told.stderr and "0 of 1 models compacted" in told.stderr
    assert "it is damaged, so run 'weightspace check --repair'" in told.stderr


@pytest.mark.parametrize("form", ["table", "json"])
def test_what_is_damaged_stays_as_it_is_and_the_rest_is_done(run: Run, form: str) -> None:
    zoo = Zoo()
    ids = family(zoo, children=0) | family(zoo, children=0, seed=1)
    ours = ("--where", "starts_with(name, 'base')", "--format", form)
    flip(stored_files(zoo)[ids["base0"]], -5)
    dry = run("store", "compact", "--dry-run", *ours, code=1)
    told = run("store", "compact", *ours, code=1)
    assert dry.stderr.splitlines()[0] == told.stderr.splitlines()[0]
    said = f".weightspace/store/{ids['base0'][:2]}/{ids['base0']}.safetensors: does not hold the weights that its name says; it is damaged, so run 'weightspace check --repair'"
    assert f"base0: left as it is: {said}\n" in told.stderr
    if form == "json":
        [row] = json.loads(told.stdout)
        assert (row["models"], row["changed"], row["refused"]) == (2, 1, [{"model": "base0", "why": said}])
    else:
        assert "1 of 2 models compacted" in told.stderr
    flip(stored_files(zoo)[ids["base1"]], 40_000)
    told = run("store", "restore", *ours, code=1)
    assert (
        "base1: left as it is: .weightspace/store/" in told.stderr
        and "; it is damaged, so run 'weightspace check --repair'\n" in told.stderr
    )
    flip(stored_files(zoo)[ids["base1"]], 40_000)
    told = run("store", "restore", *ours)
    assert json.loads(told.stdout)[0]["changed"] == 1 if form == "json" else "1 of 2 models restored" in told.stderr
    assert zoo.open("base1").id == ids["base1"] and zoo.open("base1").format == "safetensors"


def test_forget_counts_for_programs(run: Run) -> None:
    family(Zoo(), children=1)
    told = run("forget", "base0", "base0-0", "--format", "json")
    assert json.loads(told.stdout) == [{"forgotten": 2}] and told.stderr == ""
