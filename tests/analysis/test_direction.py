"""Whether measures of two models have a direction, as they say of themselves."""

from typing import Any

import pytest
import torch
from torch import nn

from weightspace.analysis.measure import Taking, Values, measures
from weightspace.analysis.measured import BETWEEN
from weightspace.checkpoint import Checkpoint
from weightspace.task import Task

PAIRS = [name for name, one in measures.items() if one.of in ("pair", "task pair")]
SETTINGS: dict[str, dict[str, Any]] = {"cca": {"variant": "pwcca"}, "intruders": {"k": 3, "epsilon": 0.7}, "unit_clusters": {"clusters": 3}}

TOLERANCE = {"unit_clusters": 0.3}  # by definition it has none, but k-means ends elsewhere where the units come in another order


def network() -> nn.Sequential:
    module = nn.Sequential()
    module.add_module("fc1", nn.Linear(16, 16))
    module.add_module("relu", nn.ReLU())
    module.add_module("fc2", nn.Linear(16, 12))
    return module


def models() -> tuple[Checkpoint, Checkpoint]:
    """Two networks, the second of which has one large direction more in each layer."""
    chance = torch.Generator().manual_seed(0)
    first = {name: torch.randn(tensor.shape, generator=chance) for name, tensor in network().state_dict().items()}
    second = {
        name: one + 5 * torch.randn(len(one), 1, generator=chance) @ torch.randn(1, one.shape[1], generator=chance)
        if one.ndim == 2
        else one
        for name, one in first.items()
    }
    return Checkpoint.of(first), Checkpoint.of(second)


def mirrored(values: Values) -> Values:
    """Under the keys that the other order has: the last two names of three are those of layers."""
    split = {key: key.split(BETWEEN) for key in values}
    return {BETWEEN.join([*split[key][:-2], *reversed(split[key][-2:])]): value for key, value in values.items()}


@pytest.mark.parametrize("name", PAIRS)
def test_a_measure_says_whether_it_has_a_direction(name: str) -> None:
    data = torch.randn(200, 16, generator=torch.Generator().manual_seed(1))
    task = Task.classification(network(), data, torch.arange(200) % 3) if measures[name].of == "task pair" else None
    a, b = models()
    taking = Taking(name, SETTINGS.get(name, {}), task=task)
    there, back = taking(a, b), mirrored(taking(b, a))
    assert there.keys() == back.keys()
    same = there == pytest.approx(dict(back), rel=TOLERANCE.get(name, 1e-6), abs=1e-9, nan_ok=True)
    assert same is measures[name].is_symmetric
