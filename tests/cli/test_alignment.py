"""What the commands match, barrier and repair say when they cannot."""

from pathlib import Path

import pytest
from safetensors.numpy import save_file

from tests.cli.conftest import Run, mlp

A, B = "a.safetensors", "b.safetensors"
TASKS = """
def raises(state_dict):
    return 1 / 0

def leaves(state_dict):
    raise SystemExit(3)

def rubbish(state_dict):
    return "much"

def three():
    return 3

def both(state_dict, other):
    return 0.0

def total(state_dict):
    return sum(tensor.abs().sum() for tensor in state_dict.values())
"""


@pytest.fixture(autouse=True)
def networks(sandbox: Path) -> None:
    for seed, name in enumerate((A, B)):
        save_file(mlp(seed), sandbox / name)
    (sandbox / "judges.py").write_text(TASKS)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("restart=5", "no option of method 'weight' named 'restart'; did you mean 'restarts'?"),
        ("generator=1", "no option of method 'weight' named 'generator'"),
        ("restarts=five", "option 'restarts' of method 'weight' has the value 'five'; expected one like 1"),
        ("restarts=0", "expected at least one restart"),
        ("matrices=maybe", "option 'matrices' of method 'weight' has the value 'maybe'; expected one like False"),
        ("device=nowhere", "device 'nowhere' cannot be used here"),
    ],
)
def test_options_of_a_method(run: Run, option: str, message: str) -> None:
    assert message in run("match", A, B, "--option", option, code=1, columns=400).stderr


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ("raises", "'judges:raises' raised ZeroDivisionError: division by zero ("),
        ("leaves", "'judges:leaves' raised SystemExit: 3 ("),
        ("rubbish", "the evaluation returned loss: str; expected a number"),
        ("three", "'judges:three' returned something of type int; name a function of one state dict"),
        ("both", "'judges:both' takes 2 arguments; name a function of one state dict"),
        ("none", "no function in module 'judges' named 'none'"),
    ],
)
def test_judges_that_cannot(run: Run, judge: str, message: str) -> None:
    assert message in run("barrier", A, B, "--eval", f"judges:{judge}", code=1, columns=400).stderr


def test_a_judge_may_return_a_tensor(run: Run) -> None:
    assert "loss" in run("barrier", A, B, "--eval", "judges:total", "--points", "3", "--format", "csv").stdout


def test_files_are_named_for_what_is_in_them(run: Run) -> None:
    assert "ends in .safetensors" in run("match", A, B, "-o", "out.pt", code=1, columns=400).stderr
    assert "ends in .png or .svg or .pdf" in run("barrier", A, B, "--eval", "judges:total", "--plot", "p.xyz", code=1, columns=400).stderr
    assert "exists already" in run("match", A, B, "-o", B, code=1, columns=400).stderr


def test_a_model_of_no_population_needs_a_judge(run: Run) -> None:
    assert "nothing is known to judge this model by" in run("barrier", A, B, code=1, columns=400).stderr
    assert (
        "looks into the module; name a function without arguments"
        in run("repair", A, B, "-o", "m.safetensors", "--eval", "judges:total", code=1, columns=400).stderr
    )


def test_results_are_kept_in_the_catalog(run: Run) -> None:
    run("ingest", A, B)
    for _ in range(2):  # the second time in place of the first
        assert "kept in the catalog" in run("match", A, B).stderr
        assert "kept in the catalog" in run("barrier", A, B, "--eval", "judges:total", "--points", "3").stderr
    rows = run(
        "sql", "select measure, key, count(*) as n from pair_measurements group by all order by all", "--format", "csv"
    ).stdout.split()
    assert rows == [
        "measure,key,n",
        "barrier,loss/interpolated,1",
        "barrier,loss/worse,1",
        "match,cosine_after,1",
        "match,cosine_before,1",
        "match,l2_after,1",
        "match,l2_before,1",
        "match,reduction,1",
    ]
    Path("new.safetensors").write_bytes(Path(B).read_bytes()[:-4] + b"\0\0\0\0")
    assert "kept" not in run("match", A, "new.safetensors").stderr
