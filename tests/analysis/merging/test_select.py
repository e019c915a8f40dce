"""Greedy selection in a recipe: models that make the result worse are left out, whatever the method."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import weightspace as ws
from weightspace.analysis.merging import merge
from weightspace.errors import MergeError

TASK = """
import torch
from weightspace import Task

def held_out():
    inputs = torch.eye(4)
    return Task.classification(torch.nn.Linear(4, 4, bias=False), inputs, torch.arange(4))
"""


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Two classifiers that are right, one that is wrong, and a base of zeros; and the task that tells."""
    (tmp_path / "selecting.py").write_text(TASK)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "selecting", raising=False)
    weights = {"right": torch.eye(4), "also": 2 * torch.eye(4), "wrong": -9 * torch.eye(4), "base": torch.zeros(4, 4)}
    return {name: str(ws.save({"weight": weight}, tmp_path / f"{name}.safetensors")) for name, weight in weights.items()}


def test_a_model_that_makes_the_average_worse_is_left_out(models: dict[str, str], tmp_path: Path) -> None:
    recipe: dict[str, Any] = {
        "merge_method": "linear",
        "models": [models[name] for name in ("wrong", "right", "also")],
        "parameters": {"weight": 1},
    }
    merged = merge({**recipe, "select": "selecting:held_out"}, tmp_path / "out")
    torch.testing.assert_close(merged["weight"], 1.5 * torch.eye(4))
    assert not torch.equal(merge(recipe)["weight"], merged["weight"])
    assert merged.parents == tuple(ws.open(models[name]).id for name in ("right", "also"))
    said = (tmp_path / "out" / "merge.json").read_text()
    assert "wrong.safetensors': accuracy 0, with it 0, left out" in said


def test_the_method_and_the_base_stay(models: dict[str, str]) -> None:
    recipe: dict[str, Any] = {"merge_method": "task_arithmetic", "base_model": models["base"], "models": [models["wrong"], models["right"]]}
    recipe |= {"parameters": {"weight": 0.5}, "select": {"task": "selecting:held_out", "metric": "loss", "maximize": False}}
    torch.testing.assert_close(merge(recipe)["weight"], 0.5 * torch.eye(4))


def test_a_lone_model_leaves_nothing_to_choose(models: dict[str, str]) -> None:
    recipe = {"merge_method": "linear", "models": [models["right"]], "parameters": {"weight": 1}, "select": "selecting:held_out"}
    with pytest.raises(
        MergeError, match="select chooses among whole models, and the recipe has slices or fewer than two; list them under models"
    ):
        merge(recipe)


def test_a_metric_that_is_not_measured(models: dict[str, str]) -> None:
    recipe: dict[str, Any] = {"merge_method": "linear", "models": [models["right"], models["also"]], "parameters": {"weight": 1}}
    with pytest.raises(MergeError, match=r"the evaluation has no metric 'f1' \(it has loss, accuracy\)"):
        merge({**recipe, "select": {"task": "selecting:held_out", "metric": "f1"}})
