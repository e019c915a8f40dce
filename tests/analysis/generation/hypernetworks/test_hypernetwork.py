"""Plain hypernetworks, and what all hypernetworks share: conditions, learning through tasks, and how what is made starts."""

import math
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.analysis.generation.materials import module, networks, task
from weightspace.analysis.generation import Material, Target, Wish, fit, load_generator, sample, save_generator
from weightspace.analysis.generation.fitting import make
from weightspace.analysis.generation.hypernetworks.condition_codes import Embedding, Values
from weightspace.analysis.generation.hypernetworks.initialisation import means, ordinary, spreads
from weightspace.errors import GenerationError
from weightspace.task import Task

BY_TASK = ("mlp", "chunked", "recurrent")
LARGE = Target({"fc.weight": (60, 50), "fc.bias": (60,), "norm.weight": (60,), "norm.bias": (60,), "head.weight": (10, 60), "scale": ()})


def regression(slope: float) -> Task:
    """A line through the origin, to be found by a linear layer."""
    inputs = torch.linspace(-1, 1, 16)[:, None]
    return Task(nn.Linear(1, 1), [(inputs, slope * inputs)], lambda outputs, batch: (outputs - batch[1]).square().mean())


@pytest.mark.parametrize("name", BY_TASK)
def test_each_task_gets_the_network_that_does_it(name: str) -> None:
    slopes = torch.tensor([-1.0, 0.5, 2.0])
    tasks = [regression(float(slope)) for slope in slopes]
    material = Material(Target.of_module(tasks[0].module), tasks=tasks, conditions=torch.tensor([4, 7, 2]))
    made = fit(name, material, steps=150, learning_rate=2e-2, together=3)
    drawn = sample(made, 3, Wish(condition=torch.tensor([7, 4, 2])))
    torch.testing.assert_close(drawn["weight"].flatten(), torch.tensor([0.5, -1.0, 2.0]), atol=0.1, rtol=0)


@pytest.mark.parametrize("name", [*BY_TASK, "mip"])
def test_conditions_that_were_not_learned_get_weights_between(name: str) -> None:
    levels = torch.linspace(0, 1, 9)
    tasks = [regression(float(2 * level)) for level in levels]
    material = Material(Target.of_module(tasks[0].module), tasks=tasks, conditions=levels[:, None])
    made = fit(name, material, steps=150, learning_rate=2e-2, together=5)
    drawn = sample(made, 3, Wish(condition=torch.tensor([[0.19], [0.44], [0.81]])))
    torch.testing.assert_close(drawn["weight"].flatten(), torch.tensor([0.38, 0.88, 1.62]), atol=0.1, rtol=0)


@pytest.mark.parametrize("name", [*BY_TASK, "mip"])
def test_without_conditions_one_network_is_learned(name: str) -> None:
    given = task()
    made = fit(name, Material(Target.of_module(module()), tasks=[given]), steps=150, learning_rate=1e-2)
    drawn = sample(made, 2)
    one, two = ({key: tensor[at] for key, tensor in drawn.items()} for at in range(2))
    assert given.evaluate(one)["accuracy"] > 0.9
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_one_task_stands_for_all_conditions() -> None:
    material = Material(
        Target.of_module(nn.Linear(1, 1)), tasks=[regression(2)], conditions=torch.rand(5, 2, generator=torch.Generator().manual_seed(0))
    )
    made = fit("mlp", material, steps=200, learning_rate=3e-2)
    assert sample(made, 1, Wish(condition=torch.tensor([0.3, 0.3])))["weight"].item() == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("name", BY_TASK)
def test_learned_tasks_are_saved(name: str, tmp_path: Path) -> None:
    material = Material(Target.of_module(module()), tasks=[task(0), task(1)], conditions=torch.tensor([3, 5]))
    made = fit(name, material, steps=2)
    loaded = load_generator(save_generator(made, tmp_path / "generator.safetensors"))
    one, two = (sample(each, 2, Wish(condition=torch.tensor([5, 3]))) for each in (made, loaded))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["fc1.weight"][0], one["fc1.weight"][1])


@pytest.mark.parametrize("name", BY_TASK)
def test_numbers_of_tasks_can_be_mapped_over(name: str) -> None:
    made = fit(name, Material(Target.of_module(module()), tasks=[task(0), task(1)], conditions=torch.tensor([3, 5])), steps=2)
    mapped = torch.func.vmap(made.weights)(torch.tensor([5, 3]))  # type: ignore[arg-type]
    for at, number in enumerate((5, 3)):
        for key, tensor in made.weights(torch.tensor(number)).items():  # type: ignore[operator]
            torch.testing.assert_close(mapped[key][at], tensor, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", BY_TASK)
def test_what_is_made_starts_like_an_ordinary_network(name: str) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        drawn = [make(name, LARGE, (3,), {}).weights(torch.randn(3)) for _ in range(30)]  # type: ignore[operator]
    for key, fan_in in (("fc.weight", 50), ("head.weight", 60)):
        found = torch.stack([one[key] for one in drawn])
        assert found.mean().abs() < 0.2 * found.std()
        assert found.square().mean().sqrt() == pytest.approx(math.sqrt(2 / fan_in), rel=0.25)
    scales = torch.stack([one["norm.weight"] for one in drawn])
    assert scales.mean() == pytest.approx(1, abs=0.05) and scales.std() < 0.2


def test_an_ordinary_network_starts_by_the_rules() -> None:
    mean, spread, drawn = (LARGE.tensors(one) for one in (means(LARGE), spreads(LARGE), ordinary(LARGE)))
    assert mean["norm.weight"].eq(1).all() and mean["norm.bias"].eq(0).all() and mean["fc.weight"].eq(0).all() and mean["scale"] == 0
    assert spread["fc.weight"].mean().item() == pytest.approx(math.sqrt(2 / 50))
    assert spread["fc.bias"].mean().item() == pytest.approx(math.sqrt(1 / 150))
    assert spread["norm.bias"].mean().item() == pytest.approx(0.1)
    assert drawn["fc.weight"].std() == pytest.approx(math.sqrt(2 / 50), rel=0.1)
    assert drawn["fc.bias"].eq(0).all() and drawn["norm.weight"].eq(1).all()


def test_constants_and_tied_tensors_reach_the_task() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
            self.second.weight = self.first.weight
            self.register_buffer("shift", torch.tensor([5.0, 5.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.second(self.first(x)) + self.shift
            return made

    inputs = torch.randn(8, 2, generator=torch.Generator().manual_seed(0))
    given = Task(Tied(), [(inputs, inputs + 5)], lambda outputs, batch: (outputs - batch[1]).square().mean())
    made = fit("mlp", Material(Target.of_module(given.module), tasks=[given]), steps=300, learning_rate=1e-2)
    [weight] = sample(made)["first.weight"]
    torch.testing.assert_close(weight @ weight, torch.eye(2), atol=0.1, rtol=0)


def test_a_condition_without_dimensions_is_a_whole_number() -> None:
    material = Material(Target.of_module(module()), tasks=[task()] * 2, conditions=torch.tensor([0.3, 1.0]))
    with pytest.raises(GenerationError, match=r"is the number of a task, and 0.3 is none; give vectors of one value, of shape \[1\]"):
        fit("chunked", material, steps=1)


def test_a_task_that_was_not_learned_is_refused() -> None:
    made = fit("recurrent", Material(Target.of_module(module()), tasks=[task()] * 2, conditions=torch.tensor([3, 5])), steps=1)
    with pytest.raises(GenerationError, match=r"task 4 is none of those that were learned \(3, 5\); ask for one of them"):
        sample(made, 1, Wish(condition=torch.tensor(4)))


def test_conditions_are_finite() -> None:
    material = Material(Target.of_module(module()), tasks=[task()] * 2, conditions=torch.tensor([[0.3], [math.nan]]))
    for name in ("mlp", "mip"):
        with pytest.raises(GenerationError, match="a condition holds values that are not finite"):
            fit(name, material, steps=1)


def test_tasks_are_as_many_as_conditions() -> None:
    material = Material(Target.of_networks(networks()), networks(3), [task()] * 2, torch.rand(3, 1))
    with pytest.raises(GenerationError, match="2 tasks for 3 conditions; give one for each, or one for all"):
        fit("mlp", material, steps=1)


def test_learning_that_runs_away_is_said() -> None:
    material = Material(Target.of_module(nn.Linear(1, 1)), tasks=[regression(2)])
    with pytest.raises(GenerationError, match="lower the learning rate"):
        fit("mlp", material, steps=50, learning_rate=1e30)


def test_codes_of_conditions() -> None:
    torch.testing.assert_close(Values((2,), on_circle=True)(torch.tensor([[0.0, 1.0]])), torch.tensor([[1.0, 0, 0, 1]]))
    assert Values(None, on_circle=False)(None).tolist() == [[1]]
    learned = Embedding((), 4)
    learned.know(torch.tensor([9, 2, 9]))
    assert torch.equal(learned(torch.tensor([9])), learned.vectors[1:])
    assert learned(torch.tensor([5])).eq(0).all()
    assert Embedding(None, 4)(None).shape == (1, 4)


@pytest.mark.parametrize("name", BY_TASK)
def test_a_beta_without_conditions_is_refused(name: str) -> None:
    with pytest.raises(GenerationError) as raised:
        fit(name, Material(Target.of_module(module()), tasks=[task()]), beta=0.1)
    assert str(raised.value) == (
        "beta is for tasks learned one after another, which their conditions tell apart; give each task one, or leave beta out"
    )
