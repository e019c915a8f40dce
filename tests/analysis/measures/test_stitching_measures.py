"""Measures at the cuts of two networks, through the registry: of one architecture and of two."""

import math

import pytest
import torch
from torch import nn

from tests.analysis.stitching.test_penalty import rings
from weightspace.analysis.measure import Taking, measures
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, ShapeMismatchError
from weightspace.task import Task

NAMES = ("fit_error", "stitching_penalty", "stitching_maps")


def perceptron(width: int, depth: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for at in range(depth):
        layers += [nn.Linear(width if at else 8, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 3))


def judged(module: nn.Module, seed: int) -> tuple[Task, Checkpoint]:
    chance = torch.Generator().manual_seed(seed)
    weights = {name: 0.5 * torch.randn(tensor.shape, generator=chance) for name, tensor in module.state_dict().items()}
    return Task.classification(module, *rings(200)), Checkpoint.of(weights)


def test_values_of_two_architectures() -> None:
    (task, a), (other, b) = judged(perceptron(6, 2), 0), judged(perceptron(5, 1), 1)
    before = a.id, b.id
    found = {name: measures[name](task, a, b, other=other) for name in NAMES}
    assert set(found["fit_error"]) == {"0|0", "2|0", "input > 0", "mean"}
    assert set(found["stitching_penalty"]) == {"0|0", "2|0", "input > 0", "mean", "loss", "random 0 > 0", "random 2 > 0"}
    tables = ("cka_debiased", "lr", "fit_error", "penalty", "agreement")
    assert {"examples", "loss"} | {f"{one}|2|0" for one in tables} | {f"{one}: input > 0" for one in tables} < set(found["stitching_maps"])
    assert found["stitching_maps"]["penalty|2|0"] == found["stitching_penalty"]["2|0"]
    assert found["stitching_maps"]["fit_error|2|0"] == found["fit_error"]["2|0"]
    assert all(isinstance(value, float | int) and math.isfinite(value) for values in found.values() for value in values.values())
    assert (Checkpoint.of(a.state_dict()).id, Checkpoint.of(b.state_dict()).id) == before


@pytest.mark.parametrize("name", NAMES)
def test_settings_can_be_stored(name: str) -> None:
    one = measures[name]
    assert one.of == "task pair" and not one.is_symmetric and one.is_mixed and one.reference
    assert {"kind", "bias"} <= set(Taking(name).parameters) and "other" not in Taking(name).parameters


def test_random_fronts_hang_on_the_seed() -> None:
    task, a = judged(perceptron(6, 1), 0)
    one, other = (Taking("stitching_penalty", seed=seed, task=task)(a, a) for seed in (0, 1))
    assert one["0|0"] == other["0|0"] and one["random 0 > 0"] != other["random 0 > 0"]
    assert "random 0 > 0" not in Taking("stitching_penalty", {"controls": False}, task=task)(a, a)


def test_a_model_of_another_architecture_runs_in_its_own_module(monkeypatch: pytest.MonkeyPatch) -> None:
    task, a = judged(perceptron(6, 1), 0)
    other, b = judged(perceptron(4, 1), 1)
    with pytest.raises(ShapeMismatchError, match="in module Sequential"):  # nothing is known of how b is built
        Taking("cka", task=task)(a, b)
    monkeypatch.setattr("weightspace.task.module_for", lambda checkpoint, load: perceptron(4, 1))
    found = Taking("cka", task=task)(a, b)
    assert found == measures["cka"](task, a, b, other=other)
    back = Taking("cka", task=task)(b, a)
    assert back["2|0"] == pytest.approx(found["0|2"]) and Taking("cka", task=task)(b, b)["mean"] == pytest.approx(1)
    with pytest.raises(
        AnalysisError, match="measure 'convergent_learning' compares networks of one architecture, activations too, and these"
    ):
        Taking("convergent_learning", task=task)(a, b)
    assert Taking("convergent_learning", task=task)(b, b)["0/one_to_one"] == pytest.approx(1), "both are of one, which is not the task's"
