"""`weightspace reproduce` and `weightspace methods`: what is tried is kept, listed and written down."""

from pathlib import Path

from tests.cli.conftest import Run
from weightspace.experiments.claim import claims
from weightspace.zoo import Zoo

QUICK = "relu-scaling"


def test_a_claim_is_tried_and_kept(sandbox: Path, run: Run) -> None:
    done = run("reproduce", QUICK, "--seeds", "2", "--format", "json")
    assert '"held": true' in done.stdout
    assert set(Zoo(sandbox).claims()["claim"].to_pylist()) == {QUICK}
    listed = run("reproduce", "--list", "--format", "csv").stdout
    assert all(name in listed for name in claims) and f"{QUICK},held," in listed


def test_the_ledger_is_written_as_a_page(sandbox: Path, run: Run) -> None:
    run("reproduce", QUICK, "--seeds", "2", "-o", "ledger.md")
    assert f"**{QUICK}**: held." in (sandbox / "ledger.md").read_text()
    assert "--force" in run("reproduce", "-o", "ledger.md", code=1).stderr


def test_a_claim_that_there_is_none_of_gets_a_suggestion(sandbox: Path, run: Run) -> None:
    assert f"did you mean '{QUICK}'" in run("reproduce", "relu-scalin", code=1).stderr


def test_named_claims_are_listed_and_not_tried(sandbox: Path, run: Run) -> None:
    listed = run("reproduce", "--list", QUICK, "cka-bias", "--format", "csv").stdout.splitlines()
    assert [line.split(",")[:2] for line in listed[1:]] == [["cka-bias", "not tried"], [QUICK, "not tried"]]
    assert f"did you mean '{QUICK}'" in run("reproduce", "--list", "relu-scalin", code=1).stderr
    assert Zoo(sandbox).claims().num_rows == 0


def test_nothing_to_try_is_said(sandbox: Path, run: Run) -> None:
    assert "nothing to try; name claims, or give --all, or --list" in run("reproduce", code=1).stderr


def test_all_and_some_are_a_contradiction(sandbox: Path, run: Run) -> None:
    said = run("reproduce", "--all", QUICK, "--seeds", "2", code=1).stderr
    assert said == "error: --all tries every claim, and names choose some; give one of the two\n"
    assert Zoo(sandbox).claims().num_rows == 0


def test_methods_are_listed_with_what_was_tried_of_them(sandbox: Path, run: Run) -> None:
    assert "analysis/merging/methods/ties.py" in run("methods", "--format", "csv").stdout
    run("methods", "-o", "methods.md")
    assert "| `ties` |" in (sandbox / "methods.md").read_text()
    assert "--force" in run("methods", "-o", "methods.md", code=1).stderr
