"""The command measure: any registered measure, kept by content."""

import json
import sys
from pathlib import Path

import pytest
import torch

import weightspace as ws
from tests.cli.conftest import Run
from weightspace.analysis.measure import measures
from weightspace.cli.left_out import LeftOut
from weightspace.errors import AnalysisError
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
    both = {("base", "tuned"), ("tuned", "base")}
    assert {(row["a"], row["b"]) for row in first} == both and first[0]["value"] is not None, "a measure with a direction, both ways"
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


def test_networks_of_two_architectures_run_in_their_own_modules_and_are_kept(run: Run, sandbox: Path) -> None:
    for population, settings in (("mlps", ("widths=8", "depths=1")), ("cnns", ("widths=4", "depths=1"))):
        run("populate", population, "--count", "1", "--data", "digits", "--set", "steps=0", *(f"--set={one}" for one in settings))
    where = "name like 'mlps-%' or name like 'cnns-%'"
    rows = json.loads(run("measure", "stitching_maps", "--where", where, "--option", "maps=[lr, penalty]", "--format", "json").stdout)
    a, b = sorted({row["a"] for row in rows})
    found = {(row["a"], row["key"]): row["value"] for row in rows}
    assert a.startswith("cnns") and b.startswith("mlps") and found[b, "examples"] == 225
    assert found[b, "penalty|fc1|stem.conv"] is not None and found[a, "penalty|stem.conv|fc1"] is not None
    kept = Zoo(sandbox).sql("select parameters, value from pair_measurements where key = 'penalty|fc1|stem.conv'").to_pylist()
    settings = json.loads(kept[0]["parameters"])
    assert kept[0]["value"] == found[b, "penalty|fc1|stem.conv"] and settings["kind"] == "linear" and settings["maps"] == ["lr", "penalty"]
    assert len(settings["digest"]) == 32, "of the examples and what judges them"
    run("measure", "stitching_maps", a, b, "--option", "maps=[lr, penalty]", "--plot", "maps.png")
    assert Path("maps.png").read_bytes().startswith(b"\x89PNG")
    refused = run("measure", "unit_clusters", a, b, code=1).stderr
    assert "'unit_clusters' compares networks of one architecture" in refused


def test_a_task_that_was_edited_is_another_task(run: Run, sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = ("measure", "neural_collapse", "--where", "name = 'base'", "--eval", "edited_tasks:task", "--format", "json")

    def asked(seed: int) -> tuple[object, int]:
        (sandbox / "edited_tasks.py").write_text(TASK.replace("manual_seed(0)", f"manual_seed({seed})"))
        monkeypatch.delitem(sys.modules, "edited_tasks", raising=False)
        found = json.loads(run(*query).stdout)
        [kept] = Zoo(sandbox).sql("select count(distinct parameters) as n from measurements where measure = 'neural_collapse'").to_pylist()
        return found, kept["n"]

    first, kept = asked(1)
    assert kept == 1 and asked(1) == (first, 1)
    other, kept = asked(20_000)
    assert kept == 2 and other != first


def test_what_builds_a_module_is_part_of_what_a_bound_hangs_on(run: Run, sandbox: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    query = ("measure", "lipschitz", "--where", "name = 'base'", "--option", "build=bounded_modules:build", "--format", "json")
    text = TASK.replace("def task", "def build").replace(
        "return ws.Task.classification(module, torch.randn(64, 4), torch.arange(64) % 2)", "return module"
    )
    found = []
    for activation in ("ReLU", "Sigmoid"):
        (sandbox / "bounded_modules.py").write_text(text.replace("torch.nn.ReLU", f"torch.nn.{activation}"))
        monkeypatch.delitem(sys.modules, "bounded_modules", raising=False)
        found.append(json.loads(run(*query).stdout)[0]["value"])
    assert found[1] == pytest.approx(found[0] / 4)


def test_models_that_do_not_fit_are_left_out_and_told(run: Run, sandbox: Path) -> None:
    result = run("measure", "lipschitz", "--where", "name in ('base', 'unsound', 'checkpoints/unsound')", "--format", "json")
    assert [row["model"] for row in json.loads(result.stdout)] == ["base"]
    assert "left out" in result.stderr and "unsound: " in result.stderr
    refused = run("measure", "lipschitz", "--where", "name like '%unsound'", code=1).stderr
    assert "'lipschitz' could be taken of none that the query finds" in refused and "unsound" in refused


def test_many_that_are_left_out_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    left_out = LeftOut()
    for at in range(15):
        left_out(f"net/{at}\x1b[31m", AnalysisError("nothing fits; give others"))
    left_out.report("'bend'", is_all=False)
    told = capsys.readouterr().err
    assert "left out net/0\\x1b[31m: nothing fits; give others" in told and "left out 3 more" in told and "net/12" not in told
    with pytest.raises(AnalysisError, match=r"'bend' could be taken of none that the query finds: net/0.* and 14 more: nothing fits"):
        left_out.report("'bend'", is_all=True)


def test_an_adapter_s_alpha_may_be_given(run: Run) -> None:
    factors = {"layers.0.q_proj.lora_A": torch.ones(2, 6), "layers.0.q_proj.lora_B": torch.ones(4, 2)}
    ws.save(factors, "loralib.safetensors")
    asked = ["measure", "adapter_features", "loralib.safetensors", "--format", "json"]
    assert "pass alpha= (as a measure's option: --option alpha=16)" in run(*asked, code=1, columns=400).stderr
    for alpha in (16, 4.5):
        rows = {row["key"]: row["value"] for row in json.loads(run(*asked, "--option", f"alpha={alpha}").stdout)}
        assert rows["q/frobenius"] == pytest.approx(alpha / 2 * 2 * 24**0.5)
    for wrong in ("word", "inf"):
        assert f"expected alpha to be a finite number, found '{wrong}'" in run(*asked, "--option", f"alpha={wrong}", code=1).stderr


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
