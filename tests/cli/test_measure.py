"""The command measure: any registered measure, kept by content."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run
from weightspace.analysis.measure import measures
from weightspace.zoo import Zoo

TASK = """
import torch
import weightspace as ws

def task():
    torch.manual_seed(0)
    module = torch.nn.Sequential()
    module.add_module("fc1", torch.nn.Linear(4, 8))
    module.add_module("relu", torch.nn.ReLU())
    module.add_module("fc2", torch.nn.Linear(8, 2))
    return ws.Task.classification(module, torch.randn(64, 4), torch.arange(64) % 2)
"""


@pytest.fixture
def judged(sandbox: Path) -> Path:
    (sandbox / "measured_tasks.py").write_text(TASK)
    return sandbox


def test_all_measures_are_listed_with_what_they_are_of(run: Run) -> None:
    rows = json.loads(run("measure", "--format", "json").stdout)
    assert {row["name"]: row["of"] for row in rows} == {name: one.of for name, one in measures.items()}


def test_a_measure_of_a_model_is_printed_drawn_and_kept(run: Run, sandbox: Path) -> None:
    run("ingest", "base.safetensors")
    [row] = json.loads(run("measure", "lipschitz", "base.safetensors", "--format", "json", "--plot", "bound.png").stdout)
    assert row["model"] == "base.safetensors" and row["value"] > 0
    assert Path("bound.png").read_bytes().startswith(b"\x89PNG")
    kept = Zoo(sandbox).sql("select value from measurements where measure = 'lipschitz' and key = ?", [row["key"]]).to_pylist()
    assert kept == [{"value": row["value"]}]


def test_a_measure_over_a_query_is_computed_once(run: Run, sandbox: Path) -> None:
    run("ingest", "base.safetensors", "tuned.safetensors")
    query = ("measure", "intruders", "--where", "name in ('base', 'tuned')", "--option", "k=2", "--format", "json")
    first = json.loads(run(*query).stdout)
    assert {(row["a"], row["b"]) for row in first} == {("base", "tuned")} and first[0]["value"] is not None
    with Zoo(sandbox).catalog.writing() as connection:
        connection.execute("update pair_measurements set value = 77 where measure = 'intruders'")
    assert {row["value"] for row in json.loads(run(*query).stdout)} == {77.0}, "taken from the catalog"


@pytest.mark.usefixtures("judged")
def test_what_networks_compute_is_measured_on_a_task(run: Run) -> None:
    rows = json.loads(
        run("measure", "cka", "base.safetensors", "base.safetensors", "--eval", "measured_tasks:task", "--format", "json").stdout
    )
    alike = {row["key"]: row["value"] for row in rows}
    assert alike["fc1|fc1"] == pytest.approx(1) and alike["fc1|fc2"] < 1
    text = run("measure", "neural_collapse", "base.safetensors", "--eval", "measured_tasks:task").stdout
    assert "nc1" in text.lower()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lipshitz", "base.safetensors"], "no measure named 'lipshitz'; did you mean 'lipschitz'?"),
        (["stable_rank", "base.safetensors"], "take it with: weightspace spectra MODEL --measure stable_rank"),
        (["cka", "base.safetensors"], "'cka' is taken of two models, found 1; name more, or give --where"),
        (["lipschitz"], "'lipschitz' is taken of a model, found 0; name more, or give --where"),
        (["lipschitz", "base.safetensors", "--option", "form=1"], "no option of measure 'lipschitz' named 'form'"),
        (["lipschitz", "--where", "name = 'nobody'"], "the query finds no models; widen --where"),
        (["intruders", "--where", "name = 'base'"], "the query finds fewer than two models; widen --where"),
        (["cka", "--where", "name = 'nobody'"], "the query finds no models; widen --where"),
    ],
)
def test_what_cannot_be_measured_says_why(run: Run, sandbox: Path, arguments: list[str], message: str) -> None:
    run("ingest", "base.safetensors")
    assert message in run("measure", *arguments, code=1).stderr
