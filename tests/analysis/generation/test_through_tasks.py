"""Tasks side by side: the losses and the training that one after the other gives."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weightspace.analysis.generation.through_tasks import learn_through, losses
from weightspace.errors import GenerationError
from weightspace.task import Batch, Task, cross_entropy


class Looks(nn.Linear):
    """A layer that asks for a value, which cannot be vectorised."""

    def forward(self, x: Tensor) -> Tensor:
        made = super().forward(x)
        return -made if float(made.detach().sum()) > 0 else made


def tasks_of(module: nn.Module, sizes: tuple[int, ...] = (8, 8, 8)) -> list[Task]:
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(size, 4, generator=generator), torch.randint(3, (size,), generator=generator)) for size in sizes]
    return [Task(module, [batch], cross_entropy) for batch in batches]


def module_of(kind: type[nn.Linear] = nn.Linear) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), kind(5, 3))


def weights_of(module: nn.Module, count: int) -> list[dict[str, Tensor]]:
    """Weights of their own; statistics and counters as they are."""
    generator = torch.Generator().manual_seed(1)
    state = module.state_dict()
    return [
        {n: torch.randn(t.shape, generator=generator).requires_grad_() if "running" not in n and t.ndim else t for n, t in state.items()}
        for _ in range(count)
    ]


def batches_of(tasks: list[Task]) -> list[Batch]:
    return [next(iter(task.batches)) for task in tasks]


def one_by_one(tasks: list[Task], weights: list[dict[str, Tensor]]) -> Tensor:
    return torch.stack([task.loss_of(row, batch) for task, row, batch in zip(tasks, weights, batches_of(tasks), strict=True)])


def test_losses_and_gradients_side_by_side_are_those_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of()
    tasks, weights = tasks_of(module), weights_of(module, 3)
    expected = one_by_one(tasks, weights)
    leaves = [row[name] for row in weights for name in row if row[name].requires_grad]
    wanted = torch.autograd.grad(expected.mean(), leaves)
    calls: list[int] = []
    plain = Task.loss_of

    def counted(self: Task, state: Mapping[str, Tensor], batch: Batch, **options: Any) -> Tensor:
        calls.append(1)
        return plain(self, state, batch, **options)

    monkeypatch.setattr(Task, "loss_of", counted)
    found = losses(tasks, weights, batches_of(tasks))
    assert len(calls) == 1, "one vectorised call"
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    for one, other in zip(torch.autograd.grad(found.mean(), leaves), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("why", ["sizes", "modules", "losses", "values"])
def test_tasks_that_cannot_run_side_by_side_run_one_after_the_other(why: str) -> None:
    module = module_of(Looks if why == "values" else nn.Linear)
    tasks = tasks_of(module, (8, 6, 8) if why == "sizes" else (8, 8, 8))
    if why == "modules":
        tasks[1] = replace(tasks[1], module=module_of())
    if why == "losses":
        tasks[1] = replace(tasks[1], loss=lambda outputs, batch: 2 * cross_entropy(outputs, batch))
    weights = weights_of(module, 3)
    assert torch.equal(losses(tasks, weights, batches_of(tasks)), one_by_one(tasks, weights))


def test_networks_of_different_shapes_are_learned_together() -> None:
    """As of hypernetworks that make several widths."""
    wide, narrow = nn.Linear(4, 3), nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 3))
    tasks = [tasks_of(wide)[0], tasks_of(narrow)[0]]
    scale = nn.Parameter(torch.tensor(3.0))
    made = [weights_of(wide, 1)[0], weights_of(narrow, 1)[0]]
    told = learn_through(
        [scale],
        lambda at: {name: scale * tensor.detach() for name, tensor in made[at].items()},
        tasks,
        steps=30,
        learning_rate=0.1,
        together=2,
        generator=torch.Generator().manual_seed(0),
    )
    assert told[-1] < 0.7 * told[0]


@pytest.mark.parametrize("at_once", [False, True])
def test_training_is_the_same_however_weights_are_made(at_once: bool) -> None:
    module = nn.Linear(4, 3)
    tasks = tasks_of(module)

    def trained(**more: Any) -> tuple[Tensor, list[float]]:
        found = nn.Parameter(torch.zeros(3, 15))

        def weights(at: int) -> dict[str, Tensor]:
            return {"weight": found[at, :12].view(3, 4), "bias": found[at, 12:]}

        if at_once:
            more = {"many_weights_of": lambda numbers: [weights(at) for at in numbers]}
        told = learn_through(
            [found], weights, tasks, steps=20, learning_rate=0.05, together=2, generator=torch.Generator().manual_seed(0), **more
        )
        return found.detach(), told

    made, told = trained()
    reference = nn.Parameter(torch.zeros(3, 15))  # the loop as it would be written by hand
    optimizer, generator = torch.optim.Adam([reference], lr=0.05), torch.Generator().manual_seed(0)
    lost = []
    for _ in range(20):
        drawn = torch.randperm(3, generator=generator)[:2].tolist()
        for _ in drawn:
            torch.randint(1, (), generator=generator)  # which batch
        loss = torch.zeros(())
        for at in drawn:
            inputs, classes = next(iter(tasks[at].batches))
            logits = inputs @ reference[at, :12].view(3, 4).T + reference[at, 12:]
            loss = loss + nn.functional.cross_entropy(logits, classes) / 2
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        lost.append(float(loss.detach()))
    torch.testing.assert_close(made, reference.detach(), rtol=0, atol=1e-5)
    assert told == pytest.approx(lost, abs=1e-6)


def test_a_loss_that_is_no_number_is_said() -> None:
    module = nn.Linear(4, 3)
    with pytest.raises(GenerationError, match=r"the loss became nan at step 1; lower the learning rate"):
        learn_through(
            [nn.Parameter(torch.zeros(()))],
            lambda at: {"weight": torch.full((3, 4), torch.nan), "bias": torch.zeros(3)},
            tasks_of(module),
            steps=1,
            learning_rate=0.1,
            together=3,
            generator=torch.Generator().manual_seed(0),
        )
