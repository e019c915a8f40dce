"""The trainer beside torch: the same losses and steps, layer by layer, and threads that end."""

import threading
import time
from concurrent.futures import CancelledError

import pytest
import torch
from torch import nn

from weightspace.zoo.populations import training
from weightspace.zoo.populations.layers import Adapted, Attention, Positions, Residual, Shift, Sine, run
from weightspace.zoo.populations.training import SGD, Adam, Trainee, cross_entropy, drawn, judged, side_by_side, stacks, train

torch.manual_seed(0)

LAYERS: dict[str, tuple[nn.Module, torch.Tensor]] = {
    "perceptron": (nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)), torch.randn(6, 5)),
    "siren": (nn.Sequential(nn.Linear(2, 4), Sine(7.0), nn.Linear(4, 1), Shift(0.5)), torch.randn(6, 2)),
    "1-d": (
        nn.Sequential(
            nn.Unflatten(1, (2, 10)),
            nn.Conv1d(2, 4, 5, stride=4, padding=2),
            nn.BatchNorm1d(4),
            Residual(nn.Conv1d(4, 4, 3, padding=1), nn.GELU()),
            nn.Flatten(),
            nn.Linear(12, 3),
        ),
        torch.randn(6, 20),
    ),
    "2-d": (
        nn.Sequential(
            nn.Unflatten(1, (2, 5, 4)),
            nn.Conv2d(2, 3, 3, stride=2, padding=1),
            nn.BatchNorm2d(3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(3, 3),
        ),
        torch.randn(6, 40),
    ),
    "transformer": (
        nn.Sequential(nn.Embedding(7, 6), Positions(4, 6), Residual(nn.LayerNorm(6), Attention(6, 2)), nn.LayerNorm(6), nn.Linear(6, 3)),
        torch.randint(7, (6, 4)),
    ),
    "adapter": (nn.Sequential(Adapted(torch.randn(4, 5), torch.randn(4), 2, 0.5), nn.ReLU(), nn.Linear(4, 3)), torch.randn(6, 5)),
}


def networks(module: nn.Module, count: int) -> list[dict[str, torch.Tensor]]:
    """State dicts drawn at random, variances positive."""
    generator = torch.Generator().manual_seed(1)
    return [
        {
            name: tensor.clone()
            if not tensor.is_floating_point()
            else torch.rand(tensor.shape, generator=generator) + 0.5
            if name.endswith("running_var")
            else torch.randn(tensor.shape, generator=generator) / 2
            for name, tensor in module.state_dict().items()
        }
        for _ in range(count)
    ]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("training_", [False, True])
def test_a_stack_runs_as_torch_runs_each_network(kind: str, training_: bool) -> None:
    module, inputs = LAYERS[kind]
    states = networks(module, 3)
    weights = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    made = run(module, weights, inputs.expand(3, *inputs.shape), training=training_)
    for at, state in enumerate(states):
        own = {name: tensor.clone() for name, tensor in state.items()}
        module.train(training_)
        torch.testing.assert_close(made[at], torch.func.functional_call(module, own, (inputs,)))
        for name, tensor in own.items():  # running statistics
            torch.testing.assert_close(weights[name][at], tensor)


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_training_is_torchs_own(kind: str) -> None:
    module, inputs = LAYERS["perceptron"]
    classes = torch.randint(3, (6,), generator=torch.Generator().manual_seed(3))
    states = networks(module, 3)
    rates, decay = (0.1, 0.01, 0.003), 0.0 if kind == "sgd" else 0.2
    trainees = [Trainee(state, torch.Generator(), rate, decay) for state, rate in zip(states, rates, strict=True)]
    made = dict(
        train(
            module,
            trainees,
            training.whole(inputs.expand(3, -1, -1), classes.expand(3, -1)),
            cross_entropy,
            Adam() if kind == "adam" else SGD(0.9),
            [0, 7],
        )
    )
    for at, rate in enumerate(rates):
        module.load_state_dict(states[at])
        reference: torch.optim.Optimizer = (
            torch.optim.AdamW(module.parameters(), rate, weight_decay=decay)
            if kind == "adam"
            else torch.optim.SGD(module.parameters(), rate, momentum=0.9)
        )
        for _ in range(7):
            reference.zero_grad()
            nn.functional.cross_entropy(module(inputs), classes).backward()  # type: ignore[no-untyped-call]
            reference.step()
        for name, tensor in module.state_dict().items():
            assert torch.equal(made[0][name][at], states[at][name])
            torch.testing.assert_close(made[7][name][at], tensor, rtol=1e-4, atol=1e-5)


def test_batches_hold_only_what_a_network_sees() -> None:
    inputs = torch.arange(10.0)[:, None]
    given = [Trainee({}, torch.Generator().manual_seed(0), 1.0, examples=one) for one in (None, torch.tensor([3, 4]))]
    batches = drawn(inputs, torch.arange(10), given, 40)
    for _ in range(40):  # more than are drawn at once
        batch, wanted = batches()
        assert torch.equal(batch[..., 0].long(), wanted) and set(wanted[1].tolist()) == {3, 4}
    assert set(wanted[0].tolist()) > {3, 4}


def test_networks_are_judged_by_what_they_are_to_be() -> None:
    module = nn.Sequential(nn.Linear(2, 2, bias=False))
    weights = {"0.weight": torch.stack([torch.eye(2), -torch.eye(2)])}
    found = judged(module, weights, torch.eye(2), torch.tensor([0, 1]), [None, torch.tensor([1])])
    assert [one["accuracy"] for one in found] == [1.0, 0.0]
    assert found[1]["loss"] == pytest.approx(float(nn.functional.cross_entropy(-torch.eye(2)[1:], torch.tensor([1]))))


def test_stacks_hold_equal_keys_and_no_more_than_fit() -> None:
    made = stacks(range(200), lambda at: at % 3 == 0)
    assert sorted(map(len, made)) == [3, 5, 64, 64, 64] and all(len({at % 3 == 0 for at in stack}) == 1 for stack in made)


class TestSideBySide:
    @pytest.mark.parametrize("jobs", [1, 3])
    def test_results_come_in_order(self, jobs: int) -> None:
        def work(at: int) -> int:
            time.sleep(0.01 * (at % 2 == 0))
            return at

        assert list(side_by_side(work, range(9), jobs)) == list(range(9))

    def test_what_fails_is_raised(self) -> None:
        with pytest.raises(ZeroDivisionError):
            list(side_by_side(lambda at: 1 // at, [1, 0, 1], 2))

    def test_who_stops_early_ends_the_training_that_runs(self) -> None:
        module, inputs = LAYERS["perceptron"]
        ended: list[BaseException] = []

        def work(at: int) -> int:
            trainees = [Trainee(state, torch.Generator(), 0.1) for state in networks(module, 2)]
            if at == 0:
                return at
            batches = training.whole(inputs.expand(2, -1, -1), torch.zeros(2, 6, dtype=torch.long))
            try:
                return len(list(train(module, trainees, batches, cross_entropy, Adam(), [10**9])))
            except CancelledError as error:
                ended.append(error)
                raise

        made = side_by_side(work, range(5), 2)
        assert next(made) == 0
        before = threading.active_count()
        made.close()
        assert ended and threading.active_count() < before
