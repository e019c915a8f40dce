"""A trained curve is flatter than the line, meets its ends, and trains what a network's parameters are."""

import pytest
import torch
from torch import Tensor, nn

from tests.analysis.connectivity.conftest import Pair
from weightspace.analysis.connectivity import barrier, bezier
from weightspace.errors import TaskError
from weightspace.task import Task


@pytest.mark.parametrize("name", ["perceptrons", "transformers"])
def test_the_curve_stays_below_the_line(name: str, request: pytest.FixtureRequest, generator: torch.Generator) -> None:
    pair: Pair = request.getfixturevalue(name)
    line = barrier(pair.a, pair.b, pair.task, 9)
    found = bezier(pair.a, pair.b, pair.task, generator=generator, steps=60, points=9)
    assert found.curve.path == "bezier" and len(found.training_losses) == 60
    assert found.curve.barrier < 0.2 * line.barrier and max(found.curve.losses) < max(line.losses)
    assert (found.curve.losses[0], found.curve.losses[-1]) == pytest.approx((line.losses[0], line.losses[-1]))


def test_batch_norms_are_trained_on_the_statistics_they_are_measured_with(with_batch_norm: Pair, generator: torch.Generator) -> None:
    pair = with_batch_norm
    line = barrier(pair.a, pair.b, pair.task, 5, repair="reset")
    found = bezier(pair.a, pair.b, pair.task, generator=generator, steps=50, points=5, repair="reset")
    assert max(found.curve.losses) < 0.5 * max(line.losses)
    assert found.curve.repair == "reset"
    middle = {name: (pair.a[name] + pair.b[name]) / 2 for name in ("norm1.running_mean", "norm1.weight")}
    assert torch.allclose(found.control["norm1.running_mean"], middle["norm1.running_mean"]), "statistics are no parameters"
    assert not torch.allclose(found.control["norm1.weight"], middle["norm1.weight"])


def test_the_same_generator_gives_the_same_curve(perceptrons: Pair) -> None:
    first, second, other = (
        bezier(perceptrons.a, perceptrons.b, perceptrons.task, generator=torch.Generator().manual_seed(seed), steps=3, points=2).control
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["fc1.weight"], other["fc1.weight"])


def test_tied_tensors_are_trained_as_one(generator: torch.Generator) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.last.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.last(self.first(x).tanh())
            return made

    a, b = Tied().state_dict(), Tied().state_dict()
    task = Task.classification(Tied(), torch.randn(8, 3, generator=generator), torch.arange(8) % 3)
    found = bezier(a, b, task, generator=generator, steps=5, points=2)
    assert found.control["first.weight"] is found.control["last.weight"]
    assert not torch.equal(found.control["first.weight"], (a["first.weight"] + b["first.weight"]) / 2)
    assert not found.control["first.weight"].requires_grad


def test_nothing_to_train_and_nothing_to_train_on(generator: torch.Generator) -> None:
    task = Task(nn.Identity(), [torch.ones(1, 1)], lambda out, _: out.mean())
    with pytest.raises(TaskError, match="module Identity has no float parameters, and a curve trains some; use `barrier`"):
        bezier({}, {}, task, generator=generator)
    module = nn.Linear(1, 1)
    with pytest.raises(TaskError, match="the task has no batches, and needs at least one to train on"):
        bezier(module.state_dict(), module.state_dict(), Task(module, [], lambda out, _: out.mean()), generator=generator)
