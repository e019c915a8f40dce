"""That a network forgets a task when the task's vector is taken away, and keeps what else it knew."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from weightspace.experiments.claim import Finding, at_least, at_most, claim
from weightspace.experiments.data import Examples, mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.tasks import Weights
from weightspace.experiments.train import train, train_from
from weightspace.task import Task

SHAPE, WIDTH, BEFORE, AFTER = "mnist1d-mlp", 128, 1000, 150
TARGET = (7, 8, 9)
"""The classes to forget."""
STRENGTHS = tuple(k / 10 for k in range(31))
CONTROL = 0.95
"""Of the accuracy on the other classes must stay, as in the paper."""


@claim(
    "task-negation",
    statement="Taking away the vector of a task makes a network forget it and changes little on control tasks.",
    source="Ilharco et al., Editing models with task arithmetic, arXiv:2212.04089, section 3 and table 1",
    topic="merging",
    seeds=5,
)
def task_negation(seeds: Sequence[int]) -> Iterator[Finding]:
    """Fine-tune on three of ten classes of MNIST-1D, and subtract as much as leaves 95 percent of the accuracy on the others; chance is a random vector."""
    examples = mnist1d()
    is_target = torch.isin(examples.train_classes, torch.tensor(TARGET))
    only = replace(examples, train=examples.train[is_target], train_classes=examples.train_classes[is_target])
    module = ARCHITECTURES[SHAPE](WIDTH).eval()
    bases = train(ARCHITECTURES[SHAPE], WIDTH, examples, seeds, BEFORE)
    tuned = train_from(module, bases, only, [100 + seed for seed in seeds], AFTER)
    half = len(examples.test) // 2
    tasks = [_tasks(module, examples, part) for part in (slice(0, half), slice(half, None))]
    rows: dict[str, list[tuple[float, float]]] = {"vector": [], "random": []}
    for seed, base, one in zip(seeds, bases, tuned, strict=True):
        vector = {name: one[name] - base[name] for name in base}
        for kind, own in {"vector": vector, "random": _like(vector, seed)}.items():
            rows[kind].append(_forgotten(base, own, *tasks))
    target, control = ([row[at] for row in rows["vector"]] for at in (0, 1))
    chance = [row[0] for row in rows["random"]]
    yield at_most("share of the accuracy on the task that is left", target, 0.5, baseline=chance, against="a random vector of its norm")
    yield at_least("share of the accuracy on other classes", control, CONTROL - 0.01)


def _tasks(module: torch.nn.Module, examples: Examples, part: slice) -> tuple[Task, Task]:
    """The classes to forget, and the others."""
    inputs, classes = examples.test[part], examples.test_classes[part]
    is_target = torch.isin(classes, torch.tensor(TARGET))
    first, second = (Task.classification(module, inputs[mask], classes[mask], batch_size=3000) for mask in (is_target, ~is_target))
    return first, second


def _like(vector: Weights, seed: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)
    drawn = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in vector.items()}
    return {name: one * (vector[name].norm() / one.norm()) for name, one in drawn.items()}


def _forgotten(base: Weights, vector: Weights, tune: tuple[Task, Task], test: tuple[Task, Task]) -> tuple[float, float]:
    """Shares of the base's accuracy on the task and on the others, at the strength that is worst for the task among those that spare the others."""

    def shares(tasks: tuple[Task, Task], strength: float) -> tuple[float, float]:
        moved: dict[str, Tensor] = {name: tensor - strength * vector[name] for name, tensor in base.items()}
        target, other = (task.evaluate(moved)["accuracy"] / task.evaluate(base)["accuracy"] for task in tasks)
        return target, other

    tried = {strength: shares(tune, strength) for strength in STRENGTHS}
    spared = [strength for strength, (_, other) in tried.items() if other >= CONTROL]
    return shares(test, min(spared, key=lambda strength: tried[strength][0]))
