"""Perceptrons of MNIST-1D tuned to shifted signals, in full and by LoRA, to one accuracy."""

import copy
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from weightspace.experiments.data import Examples, mnist1d
from weightspace.experiments.forgetting_training import LoRA
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.tasks import VARIANTS, Weights
from weightspace.experiments.train import BATCH, train
from weightspace.task import Task

SHAPE, WIDTH, BEFORE = "mnist1d-mlp", 256, 1000
TARGET, GOAL, MOST, EVERY = VARIANTS[0], 0.66, 1200, 20
"""The task, the accuracy on which tuning stops, the most steps, and how often it is looked at."""
RANKS: tuple[int | None, ...] = (None, 1, 4)
RATES = {None: 3e-4, 1: 1e-2, 4: 5e-3}
"""Of full tuning and of each rank: those of LoRA are larger by the order that the paper's are."""


@dataclass(frozen=True)
class Tuned:
    """A base and what was tuned from it.

    Attributes:
        base: trained on signals as they are.
        tuned: by rank; None for tuning in full.
        before: the task of the base.
        target: the task that was tuned for.
    """

    base: Weights
    tuned: dict[int | None, Weights]
    before: Task
    target: Task


@cache
def tuned(seeds: tuple[int, ...]) -> list[Tuned]:
    """Train a base for each seed, and tune its hidden layers in each way."""
    examples = mnist1d()
    module = ARCHITECTURES[SHAPE](WIDTH).eval()
    before = Task.classification(module, examples.test, examples.test_classes, batch_size=5000)
    target = Task.classification(module, TARGET.inputs(examples.test), examples.test_classes, batch_size=5000)
    bases = train(ARCHITECTURES[SHAPE], WIDTH, examples, seeds, BEFORE)
    return [
        Tuned(base, {rank: _tuned(base, examples, target, rank, seed) for rank in RANKS}, before, target)
        for seed, base in zip(seeds, bases, strict=True)
    ]


def _tuned(base: Weights, examples: Examples, target: Task, rank: int | None, seed: int) -> Weights:
    module = copy.deepcopy(ARCHITECTURES[SHAPE](WIDTH))
    module.load_state_dict(base)
    module.requires_grad_(False)
    generator = torch.Generator().manual_seed(1000 + seed)
    learnt: list[nn.Parameter] = []
    for name in ("fc1", "fc2", "fc3"):
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        if rank is None:
            learnt.append(layer.get_parameter("weight"))
            learnt[-1].requires_grad_()
        else:
            adapted = LoRA(layer, rank, generator)
            setattr(module, name, adapted)
            learnt += [adapted.a, adapted.b]
    optimizer = torch.optim.Adam(learnt, RATES[rank], fused=True)
    made = base
    for step in range(1, MOST + 1):
        drawn = torch.randint(len(examples.train), (BATCH,), generator=generator)
        loss = nn.functional.cross_entropy(module(TARGET.inputs(examples.train[drawn])), examples.train_classes[drawn])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        if step % EVERY == 0 or step == MOST:
            made = _merged(base, module)
            if target.evaluate(made)["accuracy"] >= GOAL:
                break
    return made


def _merged(base: Weights, module: nn.Sequential) -> Weights:
    made = dict(base)
    for name, layer in module.named_children():
        if isinstance(layer, LoRA):
            made[f"{name}.weight"] = base[f"{name}.weight"] + layer.update
        elif isinstance(layer, nn.Linear):
            made[f"{name}.weight"] = layer.weight.detach().clone()
    return made
