"""The recurrent hypernetwork: its steps, its heads, and that later layers know of earlier ones."""

import pytest
import torch
from torch import nn

from tests.analysis.generation.materials import module, task
from weightspace.analysis.generation import Material, Target, Wish, fit, sample
from weightspace.analysis.generation.fitting import make
from weightspace.analysis.generation.generators.recurrent import RecurrentHypernetwork
from weightspace.analysis.generation.target import Target as AnyTarget

DEEP = Target.of_module(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)))


def fresh(target: AnyTarget, **settings: object) -> RecurrentHypernetwork:
    torch.manual_seed(0)
    made = make("recurrent", target, (2,), settings)
    assert isinstance(made, RecurrentHypernetwork)
    return made


def test_layers_of_one_shape_share_a_head() -> None:
    made = fresh(DEEP)
    assert made.order == ["8x8 8", "8x8 8", "3x8 3"]
    assert {key: head.out_features for key, head in made.heads.items()} == {"8x8 8": 72, "3x8 3": 27}


def test_large_layers_are_made_in_pieces() -> None:
    made = fresh(DEEP, chunk=32)
    assert made.order == ["32 at once", "32 at once", "8 at once"] * 2 + ["3x8 3"]
    shapes = {name: tensor.shape for name, tensor in made.weights(torch.rand(2)).items()}
    assert shapes == DEEP.shapes


def test_its_states_are_those_of_a_gated_recurrent_unit() -> None:
    made = fresh(DEEP, hidden=5)
    unit = nn.GRU(32, 5)
    unit.weight_ih_l0, unit.bias_ih_l0, unit.weight_hh_l0, unit.bias_hh_l0 = (
        made.read.weight,
        made.read.bias,
        made.recall.weight,
        made.recall.bias,
    )
    embedded = torch.randn(16)
    expected, _ = unit(torch.cat([embedded.expand(3, -1), made.places], 1))
    torch.testing.assert_close(made._states(embedded[None])[:, 0], expected)


def test_later_layers_depend_on_what_earlier_ones_were_made_from_and_not_the_other_way_round() -> None:
    made = fresh(DEEP)
    before = {name: tensor.detach() for name, tensor in made.weights(torch.ones(2)).items()}
    with torch.no_grad():
        made.places[1] += 1
    after = made.weights(torch.ones(2))
    assert torch.equal(after["0.weight"], before["0.weight"])
    assert not torch.equal(after["1.weight"], before["1.weight"])
    assert not torch.equal(after["2.weight"], before["2.weight"])


@pytest.mark.parametrize("chunk", [10, 1024])
def test_classifiers_are_learned(chunk: int) -> None:
    given = task()
    material = Material(Target.of_module(module()), tasks=[given] * 2, conditions=torch.tensor([0, 1]))
    made = fit("recurrent", material, steps=100, learning_rate=1e-2, chunk=chunk)
    drawn = sample(made, 1, Wish(condition=torch.tensor(1)))
    assert given.evaluate({name: tensor[0] for name, tensor in drawn.items()})["accuracy"] > 0.9
