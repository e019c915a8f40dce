"""check, backup and restore from the command line."""

import json
import shutil
from pathlib import Path

from tests.cli.conftest import Run


def test_a_sound_zoo_ends_with_0_and_says_what_was_read(run: Run) -> None:
    said = run("check")
    assert said.stdout == "" and "nothing is wrong (6 models" in said.stderr
    assert json.loads(run("check", "--quick", "--format", "json").stdout) == []


def test_a_fault_ends_with_1_and_is_mended_when_asked(run: Run, sandbox: Path) -> None:
    whole = (sandbox / "checkpoints/copy.safetensors").read_bytes()
    (sandbox / "checkpoints/copy.safetensors").unlink()
    [found] = json.loads(run("check", "--format", "json", code=1).stdout)
    assert (found["kind"], found["where"], found["mendable"]) == ("missing", "checkpoints/copy.safetensors", True)
    table = run("check", "--quick", code=1)
    assert table.stdout.splitlines()[0].split() == ["kind", "what", "is", "wrong", "where", "what", "can", "be", "done", "--repair"]
    assert "1 fault, 1 of which --repair mends" in table.stderr
    mended = run("check", "--repair")
    assert "mended 1 fault:" in mended.stderr and "nothing is wrong" in mended.stderr
    (sandbox / "base.safetensors").write_bytes(whole[:-1] + b"\x01")
    left = run("check", "--repair", code=1)
    assert "ingest it again" in left.stdout or "copy or download it again" in left.stdout


def test_back_and_forth(run: Run, sandbox: Path) -> None:
    run("ingest", "tuned.safetensors", "--copy")
    said = run("backup", "../kept", "--weights").stderr
    assert "backed up 6 models to ../kept" in said and "with the weights of 1, in 1 file, 1 of them copied now" in said
    assert "5 lie outside of the store; 'weightspace ingest PATH --copy' takes them in" in said
    assert json.loads(run("backup", "../kept", "--weights", "--format", "json").stdout)[0]["copied"] == 0
    assert "restored 6 models" in run("restore", "../kept", "--zoo", "again").stderr
    refused = run("restore", "../kept", code=1).stderr
    assert refused.count("\n") == 1 and "has a zoo already" in refused
    again = run("restore", "../kept", "--force", "--format", "json").stdout
    assert json.loads(again)[0]["kept_aside"] == str(sandbox / ".weightspace/catalog.before-restore.duckdb")


def test_a_backup_without_weights_says_what_it_lacks(run: Run, sandbox: Path) -> None:
    run("ingest", "tuned.safetensors", "--copy")
    said = run("backup", "../kept").stderr
    assert "the weights of 1 in the zoo's own store are not in it; --weights copies them, too" in said
    assert "5 lie outside of the store" in said
    [row] = json.loads(run("backup", "../kept", "--format", "json").stdout)
    assert (row["models"], row["in_store"], row["stored"]) == (6, 1, 0)
    for stored in (sandbox / ".weightspace/store").rglob("*.safetensors"):
        stored.write_bytes(stored.read_bytes()[:-1] + b"\x01")
    [name] = [str(path.relative_to(sandbox)) for path in (sandbox / ".weightspace/store").rglob("*.safetensors")]
    damaged = run("backup", "../kept", "--weights").stderr
    assert f"1 file of the store damaged: {name}; 'weightspace check' tells more" in damaged.replace("\n", " ")
    assert "their files are gone or damaged, see 'weightspace check'" in damaged
    assert json.loads(run("backup", "../kept", "--weights", "--format", "json").stdout)[0]["damaged"] == [name]
    shutil.rmtree(sandbox.parent / "kept")
    for stored in (sandbox / ".weightspace/store").rglob("*.safetensors"):
        stored.unlink()
    gone = run("backup", "../kept", "--weights").stderr
    assert "the weights of 1 in the zoo's own store are not in it; their files are gone, see 'weightspace check'" in gone
    refused = run("backup", "below", code=1).stderr
    assert "lies in the zoo's own folder; keep a backup elsewhere" in refused and refused.count("\n") == 1


def test_without_a_zoo_each_is_one_clear_line(run: Run, sandbox: Path) -> None:
    (sandbox / "none").mkdir()
    for line in (("check",), ("backup", "../kept")):
        said = run(*line, "--zoo", "none", code=1).stderr
        assert "has no zoo yet" in said and said.count("\n") == 1
    assert (
        "none: holds no backup.json; name a folder or file that 'backup' wrote" in run("restore", "none", "--zoo", "other", code=1).stderr
    )
    assert (
        "nothing: is not there; name a folder or file that 'backup' wrote" in run("restore", "../nothing", "--zoo", "none", code=1).stderr
    )
