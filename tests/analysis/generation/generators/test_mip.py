"""The magnitude-invariant hypernetwork: its code, its start, its four variants."""

import itertools
import math

import pytest
import torch
from torch import nn

from tests.analysis.generation.materials import module, networks, task
from weightspace.analysis.generation import Material, Target, Wish, fit, sample
from weightspace.analysis.generation.fitting import make
from weightspace.analysis.generation.generators.mip import MagnitudeInvariantHypernetwork
from weightspace.errors import GenerationError

TARGET = Target({"fc.weight": (40, 30), "fc.bias": (40,), "norm.weight": (40,)})


def fresh(**settings: object) -> MagnitudeInvariantHypernetwork:
    torch.manual_seed(0)
    made = make("mip", TARGET, (2,), settings)
    assert isinstance(made, MagnitudeInvariantHypernetwork)
    return made


def changed(made: MagnitudeInvariantHypernetwork, condition: torch.Tensor) -> float:
    """How far the condition moves the weights from theta_0."""
    with torch.no_grad():
        return float((TARGET.flat(made.weights(condition)) - made.theta0).norm())


def test_weights_are_what_the_equation_says() -> None:
    made, g = fresh(), torch.tensor([0.2, 0.9])
    hidden = torch.cat([torch.cos(math.pi * g / 2), torch.sin(math.pi * g / 2)])
    for layer in [one for one in made.body if isinstance(one, nn.Linear)]:
        hidden = layer.weight @ hidden + layer.bias
        hidden = torch.where(hidden > 0, hidden, 0.01 * hidden)
    torch.testing.assert_close(TARGET.flat(made.weights(g)), made.theta0 + made.change @ hidden)


def test_the_encoding_keeps_the_magnitude_and_the_default_does_not() -> None:
    small, large = torch.tensor([0.01, 0.01]), torch.tensor([1.0, 1.0])
    plain, encoded = fresh(encoding=False, residual=False), fresh(residual=False)
    assert changed(plain, small) == pytest.approx(0.01 * changed(plain, large), rel=1e-3)
    assert 0.4 < changed(encoded, small) / changed(encoded, large) < 2.5
    assert encoded.code(small[None]).norm() == pytest.approx(encoded.code(large[None]).norm().item())


@pytest.mark.parametrize(("encoding", "residual"), list(itertools.product([False, True], repeat=2)))
def test_all_variants_start_as_ordinary_networks_at_their_mean_condition(encoding: bool, residual: bool) -> None:
    torch.manual_seed(0)
    settings = {"encoding": encoding, "residual": residual}
    with torch.no_grad():
        drawn = [make("mip", TARGET, (2,), settings).weights(torch.rand(2)) for _ in range(40)]  # type: ignore[operator]
    found = torch.stack([one["fc.weight"] for one in drawn])
    assert found.square().mean().sqrt() == pytest.approx(math.sqrt(2 / 30), rel=0.3)
    assert torch.stack([one["norm.weight"] for one in drawn]).mean() == pytest.approx(1, abs=0.1)


def test_in_the_residual_form_conditions_hardly_move_the_start() -> None:
    made, g = fresh(), torch.tensor([0.2, 0.9])
    start, moved = TARGET.tensors(made.theta0.detach()), made.weights(g)
    assert (moved["fc.weight"] - start["fc.weight"]).norm() < 0.5 * start["fc.weight"].norm()
    assert start["norm.weight"].eq(1).all() and torch.equal(moved["norm.weight"], start["norm.weight"])
    assert start["fc.bias"].eq(0).all() and torch.equal(moved["fc.bias"], start["fc.bias"])


def test_it_starts_at_a_network_that_was_trained() -> None:
    given = networks(2)
    material = Material(Target.of_networks(given), given, [task()], torch.rand(2, 1))
    made = fit("mip", material, steps=0)
    assert isinstance(made, MagnitudeInvariantHypernetwork)
    torch.testing.assert_close(made.theta0.detach(), material.flat()[0])


def test_networks_with_norm_layers_are_learned() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.norm, self.fc2 = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.fc2(torch.relu(self.norm(self.fc1(x))))
            return made

    plain = task()
    given = type(plain)(Normed(), plain.batches, plain.loss, plain.metrics)
    made = fit("mip", Material(Target.of_module(given.module), tasks=[given], conditions=torch.rand(3, 1)), steps=100, learning_rate=3e-3)
    drawn = sample(made, 1, Wish(condition=torch.tensor([0.5])))
    assert given.evaluate({name: tensor[0] for name, tensor in drawn.items()})["accuracy"] > 0.8


def test_conditions_beyond_the_circle_are_refused_when_learning_and_when_asked() -> None:
    target = Target.of_module(module())
    message = r"conditions reach from -0.5 to 3, expected from 0 to 1; rescale them, or fit with encoding=False"
    with pytest.raises(GenerationError, match=message):
        fit("mip", Material(target, tasks=[task()], conditions=torch.tensor([[-0.5], [3.0]])), steps=1)
    made = fit("mip", Material(target, tasks=[task()], conditions=torch.tensor([[0.0], [1.0]])), steps=1)
    with pytest.raises(GenerationError, match=message):
        sample(made, 2, Wish(condition=torch.tensor([[-0.5], [3.0]])))
    plain = fit("mip", Material(target, tasks=[task()], conditions=torch.tensor([[-0.5], [3.0]])), steps=1, encoding=False)
    assert sample(plain, 1, Wish(condition=torch.tensor([30.0])))["fc1.weight"].isfinite().all()


@pytest.mark.parametrize("encoding", [True, False])
def test_without_conditions_and_residual_form_matrices_start_with_an_ordinary_variance(encoding: bool) -> None:
    """The code of no condition has the norm 1, encoded or not; that of values from 0 to 1 drawn evenly would be a third of it, squared."""
    torch.manual_seed(0)
    settings = {"encoding": encoding, "residual": False, "hidden": 256, "depth": 2}
    each = [sample(make("mip", TARGET, None, settings))["fc.weight"] for _ in range(20)]
    assert float(torch.cat(each).square().mean()) == pytest.approx(2 / 30, rel=0.2)
