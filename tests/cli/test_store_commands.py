"""The store on the command line: what is told, where, and with which exit code."""

import json
from pathlib import Path

from tests.cli.conftest import Run
from tests.zoo.store.files import family, stored_files
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
    assert "1 files removed" in run("gc", "--older-than", "0").stderr
    assert "restored: " in run("store", "restore").stderr and Zoo().open("base0").format == "safetensors"


def test_what_is_wrong_is_one_line(run: Run, tmp_path: Path) -> None:
    told = run("forget", "nobody", code=1)
    assert told.stderr.startswith("error: no model 'nobody' in this zoo") and told.stderr.count("\n") == 1
    told = run("store", "compact", "--zoo", str(tmp_path / "nowhere"), code=1)
    assert "has no zoo yet" in told.stderr and not (tmp_path / "nowhere").exists()
    ids = family(Zoo(), children=0)
    stored_files(Zoo())[ids["base0"]].write_bytes(b"no weights any more")
    told = run("store", "compact", "--where", "name = 'base0'")
    assert "base0: left as it is: " in told.stderr and "0 of 1 models compacted" in told.stderr
