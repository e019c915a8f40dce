"""The commands stitch plan, build and run: networks of different families joined from the shell, and taken apart again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import weightspace as ws
from tests.cli.conftest import Run
from weightspace.cli.main import app
from weightspace.task import task_for
from weightspace.zoo.populations.filling import fill
from weightspace.zoo.zoo import Zoo

FIXED: dict[str, Any] = {"activations": ["relu"], "data_fractions": [1.0], "learning_rates": [0.01, 0.0101], "init_scales": [1.0, 1.01]}
VIT = """
import torch
from torch import nn
import weightspace as ws

class Vit(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.patch = nn.Conv2d(1, width, 2, 2)
        self.position = nn.Parameter(torch.randn(16, width) * 0.02)
        self.block = nn.TransformerEncoderLayer(width, 2, 2 * width, 0.0, activation="gelu", batch_first=True, norm_first=True)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x):
        x = self.patch(x.view(-1, 1, 8, 8)).flatten(2).mT + self.position
        return self.head(self.norm(self.block(x)).mean(1))

def vit():
    return Vit()

def empty():
    return ws.Task(vit(), [], lambda outputs, batch: outputs.sum())

def wide():
    return ws.Task.classification(vit(), torch.rand(8, 49), torch.zeros(8).long())

def judge(state_dict):
    return 1.0

class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        self.source, self.target, self.head, self.tail = nn.Linear(64, 8), nn.Linear(64, 8), nn.Linear(8, 10), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(torch.relu(self.source(x))) + self.tail(torch.relu(self.target(x)))

def translator():
    return Translator()
"""

MARKS = """
import pathlib
import torch
import weightspace as ws
from stitch_nets import vit

pathlib.Path("ran").touch()

def task():
    torch.manual_seed(0)
    return ws.Task.classification(vit(), torch.rand(8, 64), torch.zeros(8).long(), batch_size=2)
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A perceptron, two convolutional networks of two sizes, and a small vision transformer that has learnt nothing."""
    folder = tmp_path_factory.mktemp("digits")
    zoo = Zoo(folder / "zoo")
    fill(zoo, "mlps", count=1, data="digits", widths=[24], depths=[2], steps=[300], **FIXED)
    fill(zoo, "cnns", count=1, data="digits", widths=[8], depths=[2], norms=["none"], residual=[True], steps=[300], **FIXED)
    fill(zoo, "cnns", count=1, data="digits", widths=[12], depths=[3], norms=["batch"], residual=[True], steps=[300], **FIXED)
    (folder / "stitch_nets.py").write_text(VIT)
    place: dict[str, Any] = {}
    exec(VIT, place)
    torch.manual_seed(0)
    ws.save(place["vit"]().state_dict(), folder / "vit.safetensors")
    ws.save(place["translator"]().state_dict(), folder / "translator.safetensors")
    return folder


@pytest.fixture
def zoo(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zoo:
    """A copy of them, in the working folder."""
    shutil.copytree(digits, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEIGHTSPACE_ZOO", str(tmp_path / "zoo"))
    return Zoo(tmp_path / "zoo")


@pytest.fixture
def stitch(zoo: Zoo) -> Run:
    """Run `weightspace stitch` there."""
    del zoo

    def invoke(*arguments: str, code: int = 0) -> Any:
        result = CliRunner().invoke(app, ["stitch", *arguments], catch_exceptions=False, env={"COLUMNS": "200"})
        assert result.exit_code == code, f"{arguments} ended with {result.exit_code}:\n{result.stdout}\n{result.stderr}"
        return result

    return invoke


def names(zoo: Zoo) -> list[str]:
    """The perceptron, the smaller convolutional network, the larger one."""
    found = zoo.sql("select name from models").column(0).to_pylist()
    mlp = next(name for name in found if name.startswith("mlps"))
    return [mlp, *sorted((name for name in found if name.startswith("cnns")), key=lambda name: zoo.open(name).num_params)]


def told(result: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(result.stdout)
    return rows


def test_a_perceptron_runs_into_a_convolutional_network(stitch: Run, zoo: Zoo) -> None:
    mlp, cnn, _ = names(zoo)
    front, end, joined = told(
        stitch("build", mlp, cnn, "--at", "fc1:block1.conv", "--name", "joined", "-o", "joined.safetensors", "--format", "json")
    )
    assert joined["route"] == 0 and front["route"] is None
    assert joined["accuracy"] > 0.9 * min(front["accuracy"], end["accuracy"])  # without any training
    edges = zoo.sql(
        "select parent.name as parent, edges.kind from edges join models child on child.model_id = child_id "
        "join models parent on parent.model_id = parent_id where child.name = 'joined'"
    ).to_pylist()
    assert {(edge["parent"], edge["kind"]) for edge in edges} == {(mlp, "stitch"), (cnn, "stitch")}
    opened = zoo.open("joined")
    assert opened.id == ws.open("joined.safetensors").id and task_for(opened).evaluate(opened)["accuracy"] == pytest.approx(
        joined["accuracy"]
    )
    [again] = told(stitch("run", "joined.safetensors", "--format", "json"))
    assert again["accuracy"] == pytest.approx(joined["accuracy"]) and again["flops"] == joined["flops"]
    [kept] = zoo.sql("select test_accuracy from model_table where name = 'joined'").to_pylist()
    assert kept["test_accuracy"] == pytest.approx(joined["accuracy"])


@pytest.mark.slow
def test_a_convolutional_network_runs_into_a_transformer(stitch: Run, zoo: Zoo) -> None:
    _, cnn, _ = names(zoo)
    module = ("--module", "stitch_nets:vit")
    rows = told(
        stitch("build", cnn, "vit.safetensors", *module, "--at", "stem.conv:patch", "--bias", "places", "--train", "250", "--learning-rate", "0.003",
               "--name", "mixed", "--format", "json")
    )  # fmt: skip
    assert rows[-1]["accuracy"] > rows[-1]["accuracy_before"] + 0.3 and rows[1]["network"] == "vit.safetensors"
    assert zoo.sql("select 1 from models where name = 'vit'").num_rows == 1  # a parent is catalogued with its child
    assert "names code, 'stitch_nets:vit'" in stitch("run", "mixed", code=1).stderr
    [row] = told(stitch("run", "mixed", "--allow", "stitch_nets:vit", "--format", "json"))
    assert row["accuracy"] == pytest.approx(rows[-1]["accuracy"])


def test_a_plan_is_read_changed_and_built(stitch: Run, zoo: Zoo) -> None:
    mlp, cnn, _ = names(zoo)
    cuts = told(stitch("plan", cnn, "--format", "json"))
    assert next((one["cut"], one["units"], one["shape"]) for one in cuts) == ("stem.conv", 8, [8, 4, 4])
    rows = told(stitch("plan", mlp, cnn, "-o", "plan.yaml", "--format", "json"))
    assert len(rows) == 2 + 2 * len(cuts) and [row["error"] for row in rows[2:]] == sorted(row["error"] for row in rows[2:])
    assert all(0 < row["error"] < 1 and 0 < row["cka"] <= 1 and row["stitch_flops"] > 0 for row in rows[2:])
    text = Path("plan.yaml").read_text()
    lines = text.splitlines(keepends=True)
    Path("plan.yaml").write_text(
        "".join(line for line in lines if "at: [[" not in line) + lines[-1].replace("fc1", "0").replace("fc2", "1")
    )
    built = told(stitch("build", "plan.yaml", "--name", "planned", "--format", "json"))
    assert len(built) == 3 and zoo.sql("select count(*) as n from measurements where measure = 'stitch'").to_pylist()[0]["n"] >= 3
    for route, name in ((0, mlp), (1, cnn)):
        place = next(row["route"] for row in built if row["network"] == name)
        assert place == route
        stitch("run", "planned", "--route", str(route), "--export", f"{route}.safetensors")
        assert ws.open(f"{route}.safetensors").id == zoo.open(name).id  # bit for bit what went in
    assert "route 2 is stitched, and --export writes one whole network; those that are: --route 0, 1" in (
        stitch("run", "planned", "--route", "2", "--export", "x.safetensors", code=1).stderr
    )
    assert not Path("x.safetensors").exists()


@pytest.mark.slow
def test_a_family_is_trained_drawn_and_chosen_from(stitch: Run, zoo: Zoo) -> None:
    del zoo
    where = ("--where", "starts_with(name, 'cnns')")
    rows = told(stitch("plan", *where, "--as", "family", "-o", "family.yaml", "--format", "json"))
    assert [row["flops"] for row in rows] == sorted(row["flops"] for row in rows)
    built = told(stitch("build", "family.yaml", "--train", "5", "--name", "family", "--plot", "family.png", "--format", "json"))
    assert len(built) == len(rows) and Path("family.png").stat().st_size > 1000
    every = told(stitch("run", "family", "--all", "--format", "json"))
    assert [row["accuracy"] for row in every] == pytest.approx([row["accuracy"] for row in built])
    [cheap] = told(stitch("run", "family", "--max-flops", str(every[0]["flops"]), "--format", "json"))
    assert cheap["network"] == every[0]["network"]
    assert "no route is within the budget" in stitch("run", "family", "--max-flops", "3", code=1).stderr
    assert "expected a route from 0 to" in stitch("run", "family", "--route", "99", code=1).stderr
    assert "three ways to choose" in stitch("run", "family", "--route", "1", "--all", code=1).stderr


@pytest.mark.slow
def test_a_network_is_reassembled_within_a_budget(stitch: Run, zoo: Zoo) -> None:
    del zoo
    where = ("--where", "starts_with(name, 'cnns')", "--as", "reassembly", "--blocks", "2")
    [row] = told(stitch("plan", *where, "--max-params", "9000", "-o", "re.yaml", "--format", "json"))
    assert row["parameters"] <= 9000 and len(row["at"]) >= 1
    built = told(stitch("build", "re.yaml", "--name", "again", "--format", "json"))
    assert built[-1]["parameters"] == row["parameters"] and built[-1]["route"] == 0


def test_what_cannot_be_stitched_is_said_in_one_line(stitch: Run, zoo: Zoo) -> None:
    mlp, cnn, _ = names(zoo)
    module = ("--module", "stitch_nets:vit")
    for line, said in {
        ("plan",): "name two models or more, or find them with --where",
        ("plan", "nobody", mlp): "nobody",
        ("plan", "--where", "false"): "the query finds no networks",
        ("plan", mlp, "vit.safetensors"): "name it with --module MODULE:FUNCTION",
        ("plan", mlp, "vit.safetensors", *module, *module): "2 functions are given with --module, and 1 network",
        ("plan", "vit.safetensors", *module): "nothing is known to judge this model by",
        ("plan", mlp, "vit.safetensors", "--module", "stitch_nets:translator"): "does not fit module Translator",
        ("plan", mlp, "translator.safetensors", "--module", "stitch_nets:translator"): "model 'translator.safetensors' cannot be stitched",
        ("plan", mlp, cnn, "--eval", "stitch_nets:empty"): "has no batches",
        ("plan", mlp, cnn, "--eval", "stitch_nets:wide"): f"model '{mlp}' does not run on the task's batches",
        ("plan", mlp, cnn, "--eval", "stitch_nets:judge"): "name a function without arguments that returns a Task",
        ("plan", mlp, cnn, "--kind", "linaer"): "did you mean 'linear'",
        ("plan", mlp, cnn, "--option", "rigde=1"): "did you mean 'ridge'",
        ("plan", mlp, cnn, "--bias", "none"): "units",
        ("plan", mlp, cnn, "--max-params", "3"): "no stitched network is within the budget",
        ("plan", mlp, cnn, mlp, "--as", "pairs"): "pairs are of two models, found 3",
        ("plan", mlp, "-o", "lone.yaml"): "a plan needs two models or more",
        ("plan", mlp, cnn, "-o", "plan.txt"): "name a file that ends in .yaml",
        ("build", mlp): "is stitched to nothing",
        ("build", mlp, cnn): "say where to join the models with --at CUT:CUT",
        ("build", mlp, cnn, "--at", "fc1"): f"a cut of '{mlp}' and one of '{cnn}', found 'fc1'",
        ("build", mlp, cnn, "--at", "fc3:stem.conv"): "did you mean 'fc2'",
        ("build", mlp, cnn, "--at", "fc1:stem.cnov"): "did you mean 'stem.conv'",
        ("build", mlp, cnn, "--at", "fc1:input"): "nothing is stitched onto the input",
        ("build", mlp, cnn, "--at", "fc1:stem.conv", "--as", "family"): "--at joins two models",
        ("run", mlp): "holds no stitched network",
    }.items():
        stderr = stitch(*line, code=1).stderr
        assert said in stderr and stderr.strip().count("\n") == 0, f"{line}: {stderr}"
    assert not [one for one in Path().iterdir() if one.suffix in (".yaml", ".tmp")]


GOOD = """
purpose: pairs
models: [{first}, {second}]
routes:
- {{networks: [0, 1], at: [[fc1, stem.conv]]}}
"""


def test_broken_plans_are_refused_in_one_line(stitch: Run, zoo: Zoo) -> None:
    mlp, cnn, _ = names(zoo)
    good = GOOD.format(first=mlp, second=cnn)
    for change, said in {
        ("purpose: pairs", "purpose: [pairs"): "is no plan",
        ("purpose: pairs", "purpose: pears"): "did you mean 'pairs'",
        ("purpose: pairs", "purposes: pairs"): "did you mean 'purpose'",
        ("routes:", "routes: 3\nkind:"): "is no plan",
        (f"[{mlp}, {cnn}]", "[]"): "and there are 0",
        ("networks: [0, 1]", "networks: [0, 5]"): "a route runs through network 5, and there are 2, counted from 0",
        ("networks: [0, 1]", "networks: [0, one]"): "'one' where a whole number is wanted",
        ("[[fc1, stem.conv]]", "[]"): "a route through 2 networks has 0 places where it changes",
        ("[[fc1, stem.conv]]", "[[fc1]]"): "expected two cuts, [from, to]",
        ("[[fc1, stem.conv]]", "[[fc1, stem.cnov]]"): "did you mean 'stem.conv'",
        ("[[fc1, stem.conv]]", "[[fc1, 99]]"): "found 99",
        ("[[fc1, stem.conv]]", "[[fc1, input]]"): "enters network 1 at its input",
        (mlp, "gone"): "gone",
        (f"[{mlp}, ", f"[{{model: {mlp}, id: {'f' * 64}}}, "): "is another than when the plan was made",
        ("purpose: pairs", "purpose: pairs\nkind: linaer"): "did you mean 'linear'",
        ("purpose: pairs", "purpose: pairs\nsettings: {rigde: 1}"): "did you mean 'ridge'",
        ("purpose: pairs", "purpose: pairs\nsettings: {ridge: soft}"): "setting 'ridge' is 'soft'",
        ("purpose: pairs", "purpose: pairs\nkind: low_rank\nsettings: {rank: [1]}"): "setting 'rank' is [1]; expected one like 16",
        ("purpose: pairs", "purpose: pairs\nsettings: soft"): "'soft' where the entries of the settings",
        ("purpose: pairs", f"purpose: pairs\nseed: {10**30}"): "expected a seed of 64 bits at most",
        ("- {networks", "- 3\n- {networks"): "3 where the entries of a route are wanted",
        ("- {networks", "- {network: [0], networks"): "did you mean 'networks'",
        (f"[{mlp}, ", f"[{{model: {mlp}, modul: 'os:getcwd'}}, "): "did you mean 'module'",
        (f"[{mlp}, ", "[null, "): "None where the entries of a model are wanted",
        (good, ""): "expected one document, found 0",
        (good, "[]"): "expected a mapping with 'purpose', 'models' and 'routes'",
    }.items():
        Path("bad.yaml").write_text(good.replace(*change))
        stderr = stitch("build", "bad.yaml", code=1).stderr
        assert said in stderr and stderr.strip().count("\n") == 0, f"{change}: {stderr}"
    assert "cannot be read as a plan" in stitch("build", "none.yaml", code=1).stderr
    Path("bad.yaml").write_text(good)
    assert "--at is for planning, and 'bad.yaml' is a plan already" in stitch("build", "bad.yaml", "--at", "0:0", code=1).stderr
    assert not zoo.sql("select 1 from tags where key = 'stitched'").num_rows  # nothing half made is in the catalog


def test_code_that_a_plan_names_runs_only_where_it_is_allowed(stitch: Run, zoo: Zoo) -> None:
    mlp, _, _ = names(zoo)
    Path("stitch_marks.py").write_text(MARKS)
    text = GOOD.format(first=mlp, second="{model: vit.safetensors, module: 'stitch_marks:vit'}").replace("stem.conv", "patch")
    Path("named.yaml").write_text(f"{text}eval: stitch_marks:task\n")
    vit, task = ("--allow", "stitch_marks:vit"), ("--allow", "stitch_marks:task")
    for given, said in {
        (): "names code, 'stitch_marks:vit', 'stitch_marks:task'; look at it, and allow it by name if it is yours: "
        "--allow stitch_marks:vit --allow stitch_marks:task",
        task: "names code, 'stitch_marks:vit';",
        vit: "names code, 'stitch_marks:task';",
        (*vit, "--allow", "stitch_marks"): "names code, 'stitch_marks:task';",
        (*task, "--module", "stitch_marks:vit"): "names code, 'stitch_marks:vit';",
    }.items():
        stderr = stitch("build", "named.yaml", *given, code=1).stderr
        assert said in stderr and stderr.strip().count("\n") == 0, stderr
        assert not Path("ran").exists()  # nor imported
    stitch("build", "named.yaml", *vit, *task, "--name", "allowed")
    stitch("build", "named.yaml", *vit, "--eval", "stitch_marks:task", "--name", "evaluated")  # named by the user himself
    assert Path("ran").exists()
    planned = ("plan", mlp, "vit.safetensors", "--module", "stitch_marks:vit", "--at", "fc1:patch", "-o", "again.yaml")
    assert "stitch build again.yaml --allow stitch_marks:vit makes it" in stitch(*planned).stderr
