"""Learning tasks one after another: what the regulariser is, what it spares, and that less is forgotten with it."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from tests.analysis.generation.materials import module
from weightspace.analysis.generation import Material, Target, Wish, fit, sample
from weightspace.analysis.generation.fitting import make
from weightspace.analysis.generation.hypernetworks.continual import LookingAhead, OutputRegulariser, learn_in_turn
from weightspace.analysis.generation.hypernetworks.hypernetwork import Hypernetwork
from weightspace.errors import GenerationError
from weightspace.task import Task

TARGET = Target.of_module(module())
NUMBERS = torch.arange(4)


def blobs(seed: int) -> Task:
    """Three blobs of each task in places of their own, far enough from those of others to be in their way."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(48) % 3
    centres = 3 * torch.randn(3, 4, generator=generator)
    return Task.classification(module(), centres[classes] + 0.5 * torch.randn(48, 4, generator=generator), classes, batch_size=16)


def fresh(name: str = "chunked") -> Hypernetwork:
    torch.manual_seed(0)
    made = make(name, TARGET, (), {})
    assert isinstance(made, Hypernetwork)
    made.code.know(NUMBERS)
    return made


def regulariser(made: Hypernetwork, beta: float = 0.5, at_once: int | None = None) -> OutputRegulariser:
    generator = torch.Generator().manual_seed(0)
    return OutputRegulariser.of(made, TARGET, NUMBERS[:3], beta=beta, at_once=at_once, generator=generator)


def moved(made: Hypernetwork) -> None:
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", ["mlp", "chunked", "recurrent"])
def test_the_regulariser_is_the_mean_squared_distance_from_what_was_made(name: str) -> None:
    made = fresh(name)
    before = torch.stack([TARGET.flat(made.weights(number)).detach() for number in NUMBERS[:3]])
    held = regulariser(made)
    assert held().item() == pytest.approx(0, abs=1e-8)
    moved(made)
    now = torch.stack([TARGET.flat(made.weights(number)).detach() for number in NUMBERS[:3]])
    assert held().item() == pytest.approx(0.5 / 3 * (now - before).square().sum().item(), rel=1e-4)


def test_embeddings_of_earlier_tasks_get_no_gradient_and_the_rest_does() -> None:
    made = fresh()
    held = regulariser(made)
    moved(made)
    torch.autograd.backward(held())
    assert made.code.vectors.grad is None
    assert all(parameter.grad is not None for name, parameter in made.named_parameters() if name != "code.vectors")


def test_a_random_part_of_the_earlier_tasks_gives_the_same_on_average() -> None:
    made = fresh()
    held, part = regulariser(made), regulariser(made, at_once=1)
    moved(made)
    with torch.no_grad():
        drawn = torch.stack([part() for _ in range(60)])
    seen = torch.unique(drawn)
    assert len(seen) == 3
    assert seen.mean().item() == pytest.approx(held().item(), rel=1e-4)


def test_looking_ahead_takes_the_regulariser_after_the_step_of_adam() -> None:
    made = fresh()
    held = regulariser(made)
    optimizer = LookingAhead(made, held, learning_rate=0.01)
    twin = deepcopy(made)
    plain = torch.optim.Adam(twin.parameters(), lr=0.01)
    for step in range(2):  # the second has moments already
        # Both see one gradient of a task; the twin steps by it alone.
        generator = torch.Generator().manual_seed(step)
        grads = [torch.randn(parameter.shape, generator=generator) for parameter in made.parameters()]
        twin.load_state_dict(made.state_dict())
        plain.load_state_dict(deepcopy(optimizer.state_dict()))
        for one, two, grad in zip(made.parameters(), twin.parameters(), grads, strict=True):
            one.grad, two.grad = grad.clone(), grad.clone()
        plain.step()
        ahead = OutputRegulariser(twin, TARGET, held.conditions, held.targets, held.beta, None, held.generator)()
        moves = {name: optimizer._move(parameter) for name, parameter in made.named_parameters()}
        assert held(moves).item() == pytest.approx(ahead.item(), rel=1e-3)
        named = dict(made.named_parameters())
        [added] = torch.autograd.grad(held(moves), named["chunks"])
        before = dict(zip(named, grads, strict=True))["chunks"]
        optimizer.step()
        assert named["chunks"].grad is not None
        torch.testing.assert_close(named["chunks"].grad, before + added)


def forgotten(name: str, **settings: object) -> tuple[float, float]:
    """Mean accuracy of all tasks but the last just after they were learned, and at the end."""
    made, tasks = fresh(name), [blobs(seed) for seed in range(4)]
    just: list[float] = []

    def accuracy(at: int) -> float:
        drawn = sample(made, 1, Wish(condition=NUMBERS[at]))
        return tasks[at].evaluate({key: tensor[0] for key, tensor in drawn.items()})["accuracy"]

    generator = torch.Generator().manual_seed(0)
    learn_in_turn(
        made,
        TARGET,
        tasks,
        NUMBERS,
        steps=80,
        learning_rate=1e-2,
        generator=generator,
        after=lambda at: just.append(accuracy(at)),
        **settings,  # type: ignore[arg-type]
    )
    return sum(just[:3]) / 3, sum(accuracy(at) for at in range(3)) / 3


@pytest.mark.parametrize("name", ["chunked", "recurrent"])
def test_less_is_forgotten_with_the_regulariser(name: str) -> None:
    learned, left = forgotten(name, beta=0.0)
    assert learned > 0.9 and left < learned - 0.1
    learned, left = forgotten(name, beta=0.1)
    assert learned > 0.9 and left > learned - 0.02


@pytest.mark.parametrize("settings", [{"look_ahead": True}, {"at_once": 1}])
def test_less_is_forgotten_with_its_variants(settings: dict[str, object]) -> None:
    learned, left = forgotten("chunked", beta=0.1, **settings)
    assert learned > 0.9 and left > learned - 0.05


def test_embeddings_of_earlier_tasks_stay_as_they_are() -> None:
    made = fresh()
    vectors = dict(made.named_parameters())["code.vectors"]
    seen: list[torch.Tensor] = []
    learn_in_turn(
        made,
        TARGET,
        [blobs(seed) for seed in range(4)],
        NUMBERS,
        beta=0.1,
        steps=3,
        learning_rate=1e-2,
        generator=torch.Generator().manual_seed(0),
        after=lambda at: seen.append(vectors.detach().clone()),
    )
    for at in range(3):
        assert torch.equal(seen[-1][at], seen[at][at])
        assert not torch.equal(seen[at + 1][at + 1], seen[at][at + 1])


def test_fitting_with_a_beta_learns_in_turn() -> None:
    told: list[tuple[int, int]] = []
    material = Material(TARGET, tasks=[blobs(0), blobs(1)], conditions=torch.tensor([0, 1]))
    made = fit("recurrent", material, beta=0.1, steps=40, learning_rate=1e-2, progress=lambda done, total: told.append((done, total)))
    assert told == [(step, 80) for step in range(1, 81)]
    drawn = sample(made, 2, Wish(condition=torch.tensor([0, 1])))
    for at in range(2):
        assert material.tasks[at].evaluate({key: tensor[at] for key, tensor in drawn.items()})["accuracy"] > 0.85


@pytest.mark.parametrize("name", ["mlp", "chunked", "recurrent"])
def test_the_regularisers_variants_are_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr("weightspace.analysis.generation.hypernetworks.hypernetwork.learn_in_turn", lambda *_, **given: told.append(given))
    material = Material(TARGET, tasks=[blobs(0), blobs(1)], conditions=torch.tensor([0, 1]))
    made = fit(name, material, beta=0.5, look_ahead=True, at_once=3)
    fit(name, material, beta=0.0)
    asked = [{key: one[key] for key in ("beta", "look_ahead", "at_once")} for one in told]
    assert asked == [{"beta": 0.5, "look_ahead": True, "at_once": 3}, {"beta": 0.0, "look_ahead": False, "at_once": None}]
    assert made.recipe["settings"]["at_once"] == 3
    for alone in ({"look_ahead": True}, {"at_once": 1}):
        with pytest.raises(GenerationError, match="look_ahead and at_once are for tasks learned one after another; give a beta"):
            fit(name, material, **alone)


def test_fitting_with_a_beta_may_look_ahead() -> None:
    material = Material(TARGET, tasks=[blobs(0), blobs(1), blobs(2)], conditions=torch.tensor([0, 1, 2]))
    plain, ahead = (fit("chunked", material, beta=0.1, steps=3, look_ahead=look, at_once=1) for look in (False, True))
    one, two = (sample(made, 1, Wish(condition=torch.tensor(2)))["fc1.weight"] for made in (plain, ahead))
    assert not torch.equal(one, two)


def test_vectors_can_be_conditions_of_tasks_learned_in_turn() -> None:
    material = Material(Target.of_module(nn.Linear(4, 3)), tasks=[linear(0), linear(1)], conditions=torch.eye(2))
    made = fit("mlp", material, beta=1.0, steps=60, learning_rate=1e-2)
    drawn = sample(made, 1, Wish(condition=torch.eye(2)[0]))
    assert material.tasks[0].evaluate({key: tensor[0] for key, tensor in drawn.items()})["accuracy"] > 0.85


def linear(seed: int) -> Task:
    given = blobs(seed)
    return Task(nn.Linear(4, 3), given.batches, given.loss, given.metrics)
