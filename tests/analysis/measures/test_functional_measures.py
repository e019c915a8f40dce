"""Measures of what networks compute, through the registry."""

import json
import math
from pathlib import Path

import pytest
import torch

import weightspace as ws
from tests.analysis.functional.networks import digits
from weightspace.analysis.measure import measures
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, UnknownNameError

TASK_PAIR = ["cka", "cca", "lr_score", "procrustes", "convergent_learning", "sparse_prediction", "unit_clusters"]
TASK = {"neural_collapse": {}, "loss_landscape": {"points": 3}, "intrinsic_dimension": {"largest": 2, "epochs": 1}}


def models() -> tuple[Checkpoint, Checkpoint]:
    a, b = digits().networks
    return Checkpoint.of(a), Checkpoint.of(b)


@pytest.mark.parametrize("name", TASK_PAIR)
def test_measures_of_two_networks(name: str) -> None:
    a, b = models()
    before = a.id, b.id
    one = measures[name]
    assert one.of == "task pair" and one.reference and json.loads(json.dumps(one.settings)).keys() == one.settings.keys()
    values = one(digits().task, a, b)
    assert values == one(digits().task, a, b)
    assert all(isinstance(value, float | int) and math.isfinite(value) for value in values.values())
    assert (Checkpoint.of(a.state_dict()).id, Checkpoint.of(b.state_dict()).id) == before


@pytest.mark.parametrize("name", TASK)
def test_measures_of_one_network(name: str) -> None:
    a, _ = models()
    one = measures[name]
    values = one(digits().task, a, **TASK[name])
    assert one.of == "task" and values == one(digits().task, a, **TASK[name])
    assert all(value is None or math.isfinite(value) for value in values.values() if not isinstance(value, str))


def test_keys() -> None:
    a, b = models()
    task = digits().task
    assert {"fc1|fc1", "fc1|fc3", "mean"} <= set(measures["cka"](task, a, b))
    assert set(measures["cka"](task, a, b, layers=["relu1"])) == {"relu1|relu1", "mean"}
    found = measures["convergent_learning"](task, a, b, layers=["relu1"], draws=2, generator=torch.Generator().manual_seed(0))
    assert set(found) == {f"relu1/{key}" for key in ("one_to_one", "semi_matching", "gap", "dead", "null")}
    assert found["relu1/one_to_one"] > 2 * found["relu1/null"]  # type: ignore[operator]
    assert "relu1/null" not in measures["convergent_learning"](task, a, b, layers=["relu1"], draws=0)
    assert "nc1_traces" in measures["neural_collapse"](task, a)
    assert set(measures["loss_landscape"](task, a, points=3)) == {
        f"{what}@{at}" for what in ("loss", "accuracy") for at in ("-1", "0", "1")
    }
    with pytest.raises(UnknownNameError, match="no variant of CCA named 'scca'; did you mean 'svcca'"):
        measures["cca"](task, a, b, variant="scca")


def test_a_layer_of_dead_units_has_no_clusters() -> None:
    a = digits().networks[0]
    dead = {**a, "fc1.weight": torch.zeros(32, 64), "fc1.bias": torch.zeros(32)}
    values = measures["unit_clusters"](digits().task, Checkpoint.of(dead), Checkpoint.of(dead), layers=["fc1", "fc2"])
    assert values["fc1/shared"] is None


def test_fingerprints() -> None:
    a, b = models()
    assert len(measures["fingerprint"](a)) == 6 * 8
    assert measures["fingerprint_similarity"](a, a)[""] == pytest.approx(1)
    assert -1 < measures["fingerprint_similarity"](a, b)[""] < 0.8  # type: ignore[operator]


def test_adapters(real_checkpoints: Path) -> None:
    values = measures["adapter_features"](ws.open(real_checkpoints / "cloneofsimo-lora" / "lora_disney.safetensors"))
    assert len(values) >= 5 and all(math.isfinite(value) for value in values.values())  # type: ignore[arg-type]
    with pytest.raises(AnalysisError, match=r"is no adapter \(its kind is full\); name one with low-rank updates"):
        measures["adapter_features"](models()[0])
