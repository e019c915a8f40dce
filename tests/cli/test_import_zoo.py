"""The command `import` for a model zoo."""

import json
from pathlib import Path

from tests.cli.conftest import Run
from tests.zoo.siren_files import hostile, save, siren


def test_a_zoo_is_told_like_an_ingest(run: Run, sandbox: Path) -> None:
    for at in range(2):
        save(siren(at), sandbox / f"sirens/randinit_{at}s/net{at}.pth")
    hostile(sandbox / "sirens/randinit_5s/net5.pth")
    lines = run("import", "sirens").stdout.splitlines()
    assert lines[0] == "3 runs with 0 metric values imported, 2 checkpoints matched"
    assert lines[1].startswith("2 checkpoints catalogued (2 new models);") and lines[2] == "1 file quarantined:"
    assert not Path("hacked").exists()
    [row] = json.loads(run("import", "sirens", "--reader", "nfn", "--format", "json").stdout)
    assert (row["runs"], row["networks"]["unchanged"], row["networks"]["catalogued"]) == (3, 3, 0)
    listed = run("ls", "--tag", "label=1").stdout
    assert "randinit_1s/net1" in listed and "randinit_0s/net0" not in listed


def test_a_folder_that_is_no_zoo_is_one_line(run: Run, sandbox: Path) -> None:
    (sandbox / "empty").mkdir()
    assert "no trial folders with result.json" in run("import", "empty", "--reader", "hsg", code=1).stderr
    assert "does not exist; name the folder of a model zoo" in run("import", "nowhere", "--reader", "hsg", code=1).stderr
    said = run("import", "empty", code=1).stderr
    assert "no tracker's records and no model zoo are recognised there" in said and "small-cnn-zoo" in said
