"""The command history: where it finds the checkpoints of a run, what it prints, and what it says when it cannot."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.cli.conftest import Run, mlp


@pytest.fixture(autouse=True)
def trainings(sandbox: Path) -> None:
    """A run of five steps whose first layer loses its head at the fourth, and a folder of two runs."""
    base = mlp(0)
    for name in ("broken", "twice"):
        (sandbox / name).mkdir()
    for at, step in enumerate((0, 100, 200, 1000, 1100)):
        state = {key: (value + np.float32(0.1 * at)).astype(np.float32) for key, value in base.items()}
        if step == 1000:
            state["fc1.weight"][0, 0] = np.nan
        save_file(state, sandbox / "broken" / f"step-{step}.safetensors")
        save_file(state, sandbox / "twice" / f"a-step-{step}.safetensors")
        save_file(state, sandbox / "twice" / f"b-step-{step}.safetensors")


def test_a_folder_is_read_in_the_order_of_its_steps(run: Run) -> None:
    rows = json.loads(run("history", "broken", "--steps", "--format", "json").stdout)
    assert list(dict.fromkeys(row["step"] for row in rows)) == [0, 100, 200, 1000, 1100]


def test_a_run_of_the_catalog_is_named_by_name_or_key(run: Run) -> None:
    run("ingest", "broken")
    by_name = run("history", "broken", "--events", "--format", "json").stdout
    [kept] = json.loads(run("sql", "select key, name from runs where name = 'broken'", "--format", "json").stdout)
    Path("broken").rename("gone")
    assert "is gone" in run("history", kept["key"], code=1).stderr
    Path("gone").rename("broken")
    assert run("history", kept["key"], "--events", "--format", "json").stdout == by_name
    [event] = json.loads(by_name)
    assert (event["severity"], event["step"], event["layer"]) == ("broken", 1000, "fc1.weight")


def test_checkpoints_given_in_order_keep_their_steps_or_are_counted(run: Run) -> None:
    first, last = "broken/step-100.safetensors", "broken/step-200.safetensors"
    for paths, steps in (([first, last], [100, 200]), ([last, first], [0, 1])):
        rows = json.loads(run("history", *paths, "--steps", "--layer", "fc1.bias", "--format", "json").stdout)
        assert [row["step"] for row in rows] == steps


def test_the_table_has_a_row_a_layer_with_its_worst_event(run: Run) -> None:
    result = run("history", "broken", columns=200)
    assert "step 1000: 1 of its elements are NaN or infinite" in result.stdout
    assert "5 checkpoints, steps 0 to 1100: 1 event" in result.stderr
    assert "broken" in run("history", "broken", "--events").stdout


def test_the_picture_is_drawn(run: Run) -> None:
    assert "drew history.png" in run("history", "broken", "--plot", "history.png").stderr
    assert Path("history.png").stat().st_size > 1000
    assert "exists already" in run("history", "broken", "--plot", "history.png", code=1).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing"], 1, "no run named 'nothing'"),
        (["twice"], 1, "twice: holds 2 runs"),
        (["checkpoints"], 1, "checkpoints: no names with steps among"),
        (["broken/step-0.safetensors"], 1, "broken/step-0.safetensors: is one checkpoint; give two checkpoints or more"),
        (["nothing", "--zoo", "broken"], 1, "'nothing' is no path, and there is no zoo in "),
        (["broken", "--layer", "conv*"], 1, "no float tensor at step 0 fits 'conv*'"),
        (["broken", "--events", "--steps"], 2, "choose one"),
    ],
)
def test_what_it_says_when_it_cannot(run: Run, arguments: list[str], code: int, message: str) -> None:
    assert message in run("history", *arguments, code=code, columns=300).stderr


def test_several_runs_of_one_name_are_told_apart_by_key(run: Run, sandbox: Path) -> None:
    for above in ("x", "y"):
        folder = sandbox / above / "same"
        folder.mkdir(parents=True)
        for step in (0, 10):
            save_file(mlp(step + len(above)), folder / f"step-{step}.safetensors")
    run("ingest", "x", "y")
    assert "2 runs are named 'same'; name one by its key: " in run("history", "same", code=1, columns=400).stderr
