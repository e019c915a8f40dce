"""The commands merge, unmerge and optimize, as users run them."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import weightspace as ws
from tests.cli.conftest import Run, mlp

BASE, A, B = "start.safetensors", "a.safetensors", "b.safetensors"
TIES = """
merge_method: ties
base_model: start.safetensors
models:
  - model: a.safetensors
    parameters: {weight: 0.5, density: 0.5}
  - model: b.safetensors
    parameters: {weight: 0.7}
parameters: {density: 0.8, normalize: true}
keep: all
"""
SOUP = "merge_method: linear\nmodels: [a.safetensors, b.safetensors]\nparameters: {weight: 1}\n"
SEARCH = """
merge_method: linear
models:
  - {model: a.safetensors, parameters: {weight: {search: [0, 1]}}}
  - {model: b.safetensors, parameters: {weight: {choose: [0.5, 1.0]}}}
"""
JUDGES = """
import torch
import weightspace as ws

def digits():
    layers = {"fc1": torch.nn.Linear(4, 8), "relu": torch.nn.ReLU(), "fc2": torch.nn.Linear(8, 2)}
    module = torch.nn.Sequential()
    for name, layer in layers.items():
        module.add_module(name, layer)
    generator = torch.Generator().manual_seed(0)
    return ws.Task.classification(module, torch.randn(64, 4, generator=generator), torch.arange(64) % 2)

def size(state_dict):
    return {"loss": float(sum(tensor.abs().sum() for tensor in state_dict.values())), "tensors": len(state_dict)}

def nothing(state_dict):
    return {"loss": float("nan"), "tensors": 4}

def raises(state_dict):
    return 1 / 0
"""


@pytest.fixture(autouse=True)
def networks(sandbox: Path) -> None:
    start = mlp(3)
    save_file(start, sandbox / BASE)
    for seed, name in enumerate((A, B)):
        draw = np.random.default_rng(seed)
        save_file({key: value + draw.normal(size=value.shape).astype(np.float32) / 10 for key, value in start.items()}, sandbox / name)
    for name, text in (("ties.yaml", TIES), ("soup.yaml", SOUP), ("search.yaml", SEARCH), ("merge_judges.py", JUDGES)):
        (sandbox / name).write_text(text)


def rules(text: str) -> str:
    Path("rules.yaml").write_text(text)
    return "rules.yaml"


def rows(run: Run, *arguments: str) -> list[dict[str, Any]]:
    return list(json.loads(run(*arguments, "--format", "json").stdout))


# The plan.


def test_a_dry_run_shows_the_plan_and_writes_nothing(run: Run) -> None:
    before = sorted(Path().rglob("*"))
    shown = run("merge", "ties.yaml", "--dry-run")
    assert shown.stdout.splitlines()[:2] == ["tensor      dtype  shape", "fc1.bias    F32    8"]
    assert "ties of a.safetensors, b.safetensors, start.safetensors: 4 tensors, 232 B" in shown.stderr
    assert "parameters: weight=0.5/0.7, density=0.5/0.8, lambda=1, normalize=true" in shown.stderr
    assert sorted(Path().rglob("*")) == before


def test_what_differs_between_tensors_has_a_column(run: Run) -> None:
    Path("some.yaml").write_text(SOUP.replace("weight: 1", "weight: [{filter: fc1, value: 2}, {value: 1}]"))
    head, first, *_, last = run("merge", "some.yaml", "--dry-run").stdout.splitlines()
    assert head.split() == ["tensor", "dtype", "shape", "parameters"]
    assert "weight=2/2, normalize=true" in first and "weight=1/1" in last


def test_a_plan_for_programs(run: Run) -> None:
    found = rows(run, "merge", "ties.yaml", "--dry-run")
    assert [one["tensor"] for one in found] == ["fc1.bias", "fc1.weight", "fc2.bias", "fc2.weight"]
    assert found[1]["shape"] == [8, 4] and found[1]["from"] == [A, B, BASE]
    assert found[1]["parameters"]["density"] == [0.5, 0.8] and found[1]["parameters"]["lambda"] == 1
    lines = list(csv.DictReader(io.StringIO(run("merge", "ties.yaml", "--dry-run", "--format", "csv").stdout)))
    assert [line["tensor"] for line in lines] == [one["tensor"] for one in found]


def test_every_problem_is_listed(run: Run) -> None:
    save_file({**mlp(1, width=6), "extra": np.ones(2, np.float32)}, "other.safetensors")
    Path("wrong.yaml").write_text("merge_method: linear\nmodels: [a.safetensors, other.safetensors]\nparameters: {weight: 1}\n")
    shown = run("merge", "wrong.yaml", "--dry-run", code=1).stderr
    assert shown.count("error: ") == 4
    assert "tensor 'fc1.weight' has shape [8, 4] in 'a.safetensors' but [6, 4] in 'other.safetensors'" in shown
    assert "tensor 'extra' is in 'other.safetensors' but not in 'a.safetensors'" in shown
    assert "(and 3 more: --dry-run lists them)" in run("merge", "wrong.yaml", "-o", "out", code=1).stderr
    assert not Path("out").exists()


# The result.


def test_a_folder(run: Run) -> None:
    shown = run("merge", "ties.yaml", "-o", "merged")
    assert sorted(path.name for path in Path("merged").iterdir()) == ["README.md", "merge.json", "model.safetensors", "recipe.yaml", "undo"]
    head, line = shown.stdout.splitlines()
    assert head.split() == ["model", "id", "method", "tensors", "size"]
    assert line.split() == ["merged", ws.open("merged").id[:12], "ties", "4", "232", "B"]
    assert "exists already; choose another name, or replace it with --force" in run("merge", "ties.yaml", "-o", "merged", code=1).stderr
    before = Path("merged/model.safetensors").read_bytes()
    run("merge", "ties.yaml", "-o", "merged", "--force")
    assert Path("merged/model.safetensors").read_bytes() == before


def test_a_file(run: Run) -> None:
    run("merge", "soup.yaml", "-o", "soup.safetensors")
    assert Path("soup.md").is_file() and Path("soup.merge.json").is_file()
    a, b, made = (load_file(name) for name in (A, B, "soup.safetensors"))
    for name in a:
        np.testing.assert_allclose(made[name], (a[name] + b[name]) / 2, rtol=1e-6)


def test_shards_and_jobs_change_nothing_but_files(run: Run) -> None:
    whole = rows(run, "merge", "ties.yaml", "-o", "whole")[0]
    cut = rows(run, "merge", "ties.yaml", "-o", "cut", "--shard-size", "100B", "--jobs", "3")[0]
    assert len(list(Path("cut").glob("*.safetensors"))) == 3 and Path("cut/model.safetensors.index.json").is_file()
    assert cut["id"] == whole["id"]
    shown = run("show", "cut").stdout
    assert "not in it" not in shown and "made from   start (merge)" in shown


def test_chance_follows_the_seed(run: Run) -> None:
    Path("dare.yaml").write_text(TIES.replace("merge_method: ties", "merge_method: dare_linear\nseed: 5"))
    made = {name: rows(run, "merge", "dare.yaml", "-o", name, *more)[0]["id"] for name, *more in (("one",), ("two", "--seed", "5"))}
    assert made["one"] == made["two"] != rows(run, "merge", "dare.yaml", "-o", "three", "--seed", "6")[0]["id"]
    assert ws.open("three").recipe["seed"] == 6  # type: ignore[index]


def test_the_result_is_catalogued_with_its_recipe_and_parents(run: Run) -> None:
    run("merge", "ties.yaml", "-o", "merged", "--eval", "merge_judges:digits")
    shown = run("show", "merged").stdout
    for parent in ("start", "a", "b"):
        assert f"made from   {parent} (merge)" in shown
    assert "recipe      kind: merge, merge_method: ties, base_model: start.safetensors, keep: all" in shown and "not in it" not in shown
    assert "accuracy 0." in shown
    whole = run("show", "merged", "--all").stdout
    assert "…" in shown and "normalize: true" in whole and "…" not in whole
    [page] = rows(run, "show", "merged")
    assert page["recipe"]["models"][0] == {"model": A, "parameters": {"density": 0.5, "weight": 0.5}}
    edges = "select parent.name from edges join models as parent on parent_id = model_id where edges.kind = 'merge' order by all"
    assert [row["name"] for row in rows(run, "sql", edges)] == ["a", "b", "start"]
    [made] = rows(run, "sql", "select kind, recipe from recipes")
    assert made["kind"] == "merge" and json.loads(made["recipe"]) == page["recipe"]


def test_a_folder_that_is_not_catalogued_says_what_it_was_made_of(run: Run, tmp_path: Path) -> None:
    run("merge", "ties.yaml", "-o", "merged", "--zoo", str(tmp_path / "elsewhere"))
    shown = run("show", "merged").stdout
    assert f"made from   {ws.open(BASE).id[:12]} (merge)" in shown and "merge_method: ties" in shown and "not in it" in shown


def test_without_a_zoo_nothing_is_catalogued(run: Run, tmp_path: Path) -> None:
    shown = run("merge", "soup.yaml", "-o", "soup", "--zoo", str(tmp_path / "none"))
    assert "no zoo here, so nothing was catalogued; 'weightspace init' makes one" in shown.stderr
    assert Path("soup/model.safetensors").is_file() and not (tmp_path / "none").exists()


# Judging it.


def test_the_result_is_judged(run: Run) -> None:
    [made] = rows(run, "merge", "soup.yaml", "-o", "soup", "--eval", "merge_judges:digits")
    assert 0 <= made["accuracy"] <= 1 and made["loss"] > 0
    found = rows(run, "sql", "select metrics.name, value from metrics join models using (model_id) where models.name = 'soup' order by all")
    assert found == [{"name": "accuracy", "value": made["accuracy"]}, {"name": "loss", "value": made["loss"]}]
    run("merge", "soup.yaml", "-o", "sized", "--eval", "merge_judges:size")
    [unmeasured] = rows(run, "merge", "soup.yaml", "-o", "nothing", "--eval", "merge_judges:nothing")
    assert unmeasured["loss"] is None and unmeasured["tensors"] == 4


@pytest.mark.parametrize("text", ["loss: {max: 100}", "loss: {max: 1.1, of: best}\nnonfinite: {max: 0}", "accuracy: {min: 0.5, of: mean}"])
def test_a_gate_that_lets_it_through(run: Run, text: str) -> None:
    assert "catalogued in" in run("merge", "soup.yaml", "-o", "soup", "--eval", "merge_judges:digits", "--gate", rules(text)).stderr


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("loss: {max: 0.01}", "above 0.01; it was written and not catalogued"),
        ("accuracy: {min: 1.5, of: worst}", "of the worst parent's"),
        ("warnings: {min: 1}", "warnings is 0, below 1"),
        ("acuracy: {min: 0.5}", "the rules speak of 'acuracy', which was not measured; did you mean 'accuracy'?"),
    ],
)
def test_a_gate_that_refuses(run: Run, text: str, reason: str) -> None:
    refused = run("merge", "soup.yaml", "-o", "soup", "--eval", "merge_judges:digits", "--gate", rules(text), code=1)
    assert reason in refused.stderr and "soup" in refused.stdout
    assert Path("soup/model.safetensors").is_file()
    assert rows(run, "sql", "select name from models where name = 'soup'") == []


def test_rules_on_the_merge_itself_need_no_evaluation(run: Run) -> None:
    assert "catalogued" in run("merge", "soup.yaml", "-o", "soup", "--gate", rules("nonfinite: {max: 0}\nwarnings: {max: 0}")).stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss: {max: 1}", "rules.yaml: has rules about an evaluation; name it with --eval MODULE:FUNCTION"),
        ("loss: low", "the rule for 'loss' is 'low'; expected min, max or both"),
        ("loss: {max: much}", "max of 'loss' is 'much'; expected a number"),
        ("loss: {max: 1, of: all}", "of 'loss' is 'all'; expected one of best, worst, mean"),
        ("{}", "holds no rules"),
        ("- 1", "rules.yaml"),
    ],
)
def test_rules_are_read_before_work_begins(run: Run, text: str, message: str) -> None:
    assert message in run("merge", "soup.yaml", "-o", "soup", "--gate", rules(text), code=1).stderr
    assert not Path("soup").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["soup.yaml"], 2, "name what to write with -o OUT"),
        (["soup.yaml", "-o", "soup", "--shard-size", "big"], 2, "'big' is no number of bytes"),
        (["soup.yaml", "-o", "soup", "--jobs", "0"], 2, "Input should be greater than or equal to 1"),
        (["soup.yaml", "-o", "soup.pt"], 1, "soup.pt: has the suffix '.pt'; name a .safetensors file, or a folder"),
        (["soup.yaml", "-o", "checkpoints", "--force"], 1, "is a folder that was not written by a merge"),
        (["soup.yaml", "-o", "none/soup"], 1, "its folder does not exist"),
        (["soup.yaml", "-o", "soup", "--eval", "merge_judges:none"], 1, "no function in module 'merge_judges' named 'none'"),
        (["soup.yaml", "-o", "soup", "--device", "nowhere"], 1, "device 'nowhere' cannot be used"),
        (["none.yaml", "-o", "soup"], 1, "none.yaml"),
        (["notes.yaml", "-o", "soup"], 1, "names no merge_method"),
        (["unknown.yaml", "-o", "soup"], 1, "no model 'c.safetensors' in this zoo"),
    ],
)
def test_nothing_is_begun_that_cannot_be_ended(run: Run, arguments: list[str], code: int, message: str) -> None:
    Path("notes.yaml").write_text("models: [a.safetensors]\n")
    Path("unknown.yaml").write_text(SOUP.replace("b.safetensors", "c.safetensors"))
    assert message in run("merge", *arguments, code=code, columns=400).stderr
    assert not Path("soup").exists()


def test_an_evaluation_that_fails_is_said_and_the_result_stays(run: Run) -> None:
    refused = run("merge", "soup.yaml", "-o", "soup", "--eval", "merge_judges:raises", code=1).stderr
    assert "'merge_judges:raises' raised ZeroDivisionError" in refused
    assert Path("soup/model.safetensors").is_file()


def test_signs_of_a_broken_merge_are_said(run: Run) -> None:
    save_file({key: -value for key, value in load_file(A).items()}, B)
    shown = run("merge", "soup.yaml", "-o", "soup", "--gate", rules("warnings: {max: 0}"), code=1).stderr
    assert "warning: " in shown and "align them first" in shown and "does not pass rules.yaml: warnings is 1, above 0" in shown


# Taking it apart.


@pytest.fixture
def merged(run: Run) -> str:
    run("merge", "ties.yaml", "-o", "merged")
    return "merged"


def test_what_was_kept_is_listed(run: Run, merged: str) -> None:
    assert [row["parent"] for row in rows(run, "unmerge", merged)] == [BASE, A, B]
    assert run("unmerge", merged).stdout.splitlines()[0].split() == ["parent", "kept", "in"]


@pytest.mark.parametrize(("arguments", "parent"), [([], BASE), (["--parent", A], A), (["--parent", B], B)])
def test_parents_come_back(run: Run, merged: str, arguments: list[str], parent: str) -> None:
    shown = run("unmerge", merged, *arguments, "-o", "back.safetensors")
    assert parent in shown.stdout and "wrote back.safetensors" in shown.stderr
    assert ws.open("back.safetensors").id == ws.open(parent).id
    assert "exists already" in run("unmerge", merged, *arguments, "-o", "back.safetensors", code=1).stderr
    run("unmerge", merged, *arguments, "-o", "back.safetensors", "--force")


@pytest.mark.parametrize("arguments", [["--parent", A], ["--without", B]])
def test_a_merge_is_not_written_over_by_what_is_had_back_from_it(run: Run, arguments: list[str]) -> None:
    run("merge", "ties.yaml", "-o", "lone.safetensors")
    before = Path("lone.safetensors").read_bytes()
    shown = run("unmerge", "lone.safetensors", *arguments, "-o", "lone.safetensors", "--force", code=1, columns=400)
    assert "is the merge itself" in shown.stderr and Path("lone.safetensors").read_bytes() == before


def test_one_is_taken_out(run: Run, merged: str) -> None:
    run("unmerge", merged, "--without", B, "-o", "without.safetensors")
    Path("one.yaml").write_text(TIES.replace("  - model: b.safetensors\n    parameters: {weight: 0.7}\n", ""))
    run("merge", "one.yaml", "-o", "one")
    assert ws.open("without.safetensors").id == ws.open("one").id


def test_what_was_kept_may_lie_elsewhere(run: Run, merged: str) -> None:
    Path(merged, "undo").rename("away")
    assert "kept none of its parents; say keep: base or keep: all" in run("unmerge", merged, code=1, columns=400).stderr
    run("unmerge", merged, "--kept", "away", "-o", "back.safetensors")
    assert ws.open("back.safetensors").id == ws.open(BASE).id
    assert "the merge kept none of its parents" in run("unmerge", merged, "--kept", "checkpoints", code=1, columns=400).stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--parent", A], 2, "name the file to write with -o FILE"),
        (["--parent", A, "--without", B, "-o", "x.safetensors"], 2, "give --parent or --without, not both"),
        (
            ["--parent", "aa.safetensors", "-o", "x.safetensors"],
            1,
            "no parent of the merge named 'aa.safetensors'; did you mean 'a.safetens",
        ),
        (["--without", "c", "-o", "x.safetensors"], 1, "no parent of the merge named 'c'"),
        (["--without", BASE, "-o", "x.safetensors"], 1, "it is the base that the others are compared with"),
        (["-o", "x.pt"], 1, "ends in .safetensors"),
    ],
)
def test_what_cannot_be_taken_apart(run: Run, merged: str, arguments: list[str], code: int, message: str) -> None:
    assert message in run("unmerge", merged, *arguments, code=code, columns=400).stderr
    assert not list(Path().glob("x.*"))


def test_a_merge_without_a_base_asks_which(run: Run) -> None:
    Path("kept.yaml").write_text(SOUP + "keep: all\n")
    run("merge", "kept.yaml", "-o", "kept.safetensors")
    assert (
        f"the merge has no base; name one of {A}, {B} with --parent"
        in run("unmerge", "kept.safetensors", "-o", "x.safetensors", code=1, columns=400).stderr
    )
    run("unmerge", "kept.safetensors", "--parent", B, "-o", "x.safetensors")
    assert ws.open("x.safetensors").id == ws.open(B).id


# Looking for the best.

OPTIMIZE = ("optimize", "search.yaml", "--eval", "merge_judges:digits", "--method", "random")


def test_a_search_goes_on_where_it_stopped(run: Run) -> None:
    first = run(*OPTIMIZE, "--tries", "3")
    assert "3 tries, 0 of them known before; best loss" in first.stderr
    head, *lines = first.stdout.splitlines()
    assert head.split() == ["models[0].weight", "models[1].weight", "loss"]
    assert [float(line.split()[2]) for line in lines] == sorted(float(line.split()[2]) for line in lines)
    more = run(*OPTIMIZE, "--tries", "5", "-o", "best.safetensors")
    assert "5 tries, 3 of them known before" in more.stderr and "wrote best.safetensors" in more.stderr
    best = rows(run, *OPTIMIZE, "--tries", "5")[0]
    [found] = rows(
        run, "sql", "select value from metrics join models using (model_id) where models.name = 'best' and metrics.name = 'loss'"
    )
    assert found["value"] == pytest.approx(best["loss"], abs=1e-6)
    assert rows(run, "sql", "select count(*) as n, count(distinct key) as keys from runs where source = 'optimize'") == [
        {"n": 5, "keys": 5}
    ]
    assert ws.open("best.safetensors").recipe["models"][0]["parameters"]["weight"] == best["models[0].parameters.weight"]  # type: ignore[index]


def test_other_models_are_another_search(run: Run) -> None:
    run(*OPTIMIZE, "--tries", "2")
    save_file(mlp(11), B)
    assert "2 tries, 0 of them known before" in run(*OPTIMIZE, "--tries", "2").stderr


def test_more_may_be_better(run: Run) -> None:
    found = [row["accuracy"] for row in rows(run, *OPTIMIZE, "--tries", "4", "--metric", "accuracy", "--maximize")]
    assert found == sorted(found, reverse=True)


def test_a_metric_that_is_not_measured_stops_the_search(run: Run) -> None:
    message = "no number of the evaluation named 'lss'; did you mean 'loss'?"
    assert message in run(*OPTIMIZE, "--metric", "lss", code=1).stderr
    run(*OPTIMIZE, "--tries", "2")
    assert message in run(*OPTIMIZE, "--tries", "2", "--metric", "lss", code=1).stderr


def test_a_try_that_fails_is_one_of_the_table(run: Run) -> None:
    Path("picky.py").write_text("seen = []\ndef judge(weights):\n    seen.append(1)\n    return 1.0 / (len(seen) - 1)\n")
    head, scored, failed = run("optimize", "search.yaml", "--method", "random", "--tries", "2", "--eval", "picky:judge").stdout.splitlines()
    assert head.split()[-1] == "failure" and scored.split()[2] == "1"
    assert "'picky:judge' raised ZeroDivisionError: float division by zero" in failed


def test_tries_that_fail_are_told_and_made_again_when_mended(run: Run) -> None:
    command = ("optimize", "search.yaml", "--method", "random", "--tries", "2", "--eval", "fragile:judge")
    Path("fragile.py").write_text("def judge(weights):\n    raise RuntimeError('no data')\n")
    shown = run(*command, code=1, columns=400).stderr
    assert "all 2 tries failed, the first with: TaskError: 'fragile:judge' raised RuntimeError: no data" in shown
    [told] = rows(run, "sql", "select distinct status, tags ->> 'failure' as failure from runs where source = 'optimize'")
    assert told["status"] == "failed" and "no data" in told["failure"]
    sys.modules.pop("fragile")  # a command in a process of its own would read it anew
    Path("fragile.py").write_text("def judge(weights):\n    return float(weights['fc1.weight'].norm())\n")
    assert "2 tries, 0 of them known before" in run(*command).stderr
    assert rows(run, "sql", "select status, count(*) as n from runs where source = 'optimize' group by all") == [
        {"status": "finished", "n": 2}
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["soup.yaml", "--eval", "merge_judges:digits"], "search"),
        (["search.yaml", "--eval", "merge_judges:digits", "--method", "gradient"], "no search method named 'gradient'"),
        (["search.yaml", "--eval", "merge_judges:none"], "no function in module 'merge_judges' named 'none'"),
        (["search.yaml", "--eval", "merge_judges:digits", "-o", A], "a.safetensors: exists already"),
        (["none.yaml", "--eval", "merge_judges:digits"], "none.yaml"),
    ],
)
def test_a_search_that_cannot_begin(run: Run, arguments: list[str], message: str) -> None:
    assert message in run("optimize", *arguments, code=1, columns=400).stderr
    assert rows(run, "sql", "select * from runs where source = 'optimize'") == []
