"""The straight-through estimator: what it promises of the midpoint, and how it moves the copy."""

import itertools

import pytest
import torch
from torch import nn

from tests.analysis.matching.trained import trained
from weightspace.analysis.connectivity.paths import blend
from weightspace.analysis.matching import match
from weightspace.analysis.matching.midpoint import path_loss
from weightspace.errors import TaskError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act
from weightspace.task import Task, cross_entropy


@pytest.mark.parametrize("name", ["relu", "tanh", "attention"])
def test_the_midpoint_is_never_worse_than_that_of_weight_matching_or_of_no_matching(name: str) -> None:
    net = trained(name)
    found = match(net.a, net.b, net.spec, "straight_through", task=net.task, steps=30)
    by_weights = match(net.a, net.b, net.spec)
    reached = path_loss(net.a, act(found.element, net.b), net.task)
    assert -found.objective[-1] == pytest.approx(reached, rel=1e-5)
    assert reached <= path_loss(net.a, act(by_weights.element, net.b), net.task) + 1e-6
    assert -found.objective[0] == pytest.approx(path_loss(net.a, net.b, net.task), rel=1e-5)
    assert all(later >= earlier for earlier, later in itertools.pairwise(found.objective))
    assert found.stopped == "stopped after 30 steps"


def test_gradients_lower_the_midpoint_below_that_of_weight_matching() -> None:
    net = trained("relu")
    found = match(net.a, net.b, net.spec, "straight_through", task=net.task, steps=60)
    assert found.objective[-1] > found.objective[1] + 0.005  # the first check is weight matching itself


def test_networks_of_eight_bits_are_judged_as_they_are_stored() -> None:
    net = trained("relu")
    a, b = ({name: tensor.to(torch.float8_e4m3fn) for name, tensor in one.items()} for one in (net.a, net.b))
    found = match(a, b, net.spec, "straight_through", task=net.task, steps=10)
    assert -found.objective[-1] == pytest.approx(path_loss(a, act(found.element, b), net.task), rel=1e-5)
    assert found.objective[-1] >= found.objective[0]


def test_without_a_gradient_it_is_weight_matching() -> None:
    net = trained("relu")
    found = match(net.a, net.b, net.spec, "straight_through", task=net.task, steps=10, learning_rate=0.0)
    assert (found.element @ match(net.a, net.b, net.spec).element.inverse()).is_identity


def test_the_same_generator_finds_the_same_element() -> None:
    net = trained("tanh")
    one, two = (
        match(net.a, net.b, net.spec, "straight_through", task=net.task, steps=15, generator=torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert one.objective == two.objective
    assert (one.element @ two.element.inverse()).is_identity


def test_batch_norms_may_use_the_statistics_of_each_batch() -> None:
    net = trained("cnn")
    found = match(net.a, net.b, net.spec, "straight_through", task=net.task, steps=10, batch_statistics=True)
    moved = act(found.element, net.b)
    assert -found.objective[-1] == pytest.approx(path_loss(net.a, moved, net.task, batch_statistics=True), rel=1e-5)
    assert abs(found.objective[-1] + path_loss(net.a, moved, net.task)) > 1e-3


def test_the_path_loss_is_the_mean_over_times_of_the_mean_over_examples() -> None:
    net = trained("relu")
    losses = [net.task.evaluate(blend((1 - t, t), (net.a, net.b)))["loss"] for t in (0.25, 0.5)]
    assert path_loss(net.a, net.b, net.task, times=(0.25, 0.5)) == pytest.approx(sum(losses) / 2, rel=1e-6)


def test_tied_tensors_stay_tied(generator: torch.Generator) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.embed(tokens))
            return logits

    spec = SymmetrySpec.parse({"embed.weight": "5 d"}, sizes={"d": 4}, aliases={"head.weight": "embed.weight"})
    a, b = (dict.fromkeys(("embed.weight", "head.weight"), torch.randn(5, 4, generator=generator)) for _ in range(2))
    task = Task(Tied(), [(torch.arange(5), torch.arange(5))], cross_entropy)
    found = match(a, b, spec, "straight_through", task=task, steps=20, learning_rate=1.0)
    assert -found.objective[-1] == pytest.approx(path_loss(a, act(found.element, b), task))


def test_no_task_and_a_task_without_batches_are_refused() -> None:
    net = trained("relu")
    with pytest.raises(TaskError, match="'straight_through' follows a loss, and there is no task; give one, or use method 'weight'"):
        match(net.a, net.b, net.spec, "straight_through")
    with pytest.raises(TaskError, match="no batches, and needs at least one to match on; give it data"):
        match(net.a, net.b, net.spec, "straight_through", task=Task(net.task.module, [], cross_entropy))
