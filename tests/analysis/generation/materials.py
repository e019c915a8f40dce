"""Small things to generate: networks of one architecture, tasks with and without conditions, and tiny settings for every generator."""

from collections import OrderedDict
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.analysis.generation import Kind, Material, Target, Wish
from weightspace.metanets import WeightBatch
from weightspace.metanets.low_rank import adapter_spec
from weightspace.spec import SymmetrySpec
from weightspace.task import Task
from weightspace.tracing import trace

INPUTS, HIDDEN, CLASSES = 4, 6, 3

TINY = {
    "steps": 2,
    "fit_steps": 2,
    "batch_size": 4,
    "hidden": 8,
    "latent": 4,
    "dim": 8,
    "layers": 1,
    "depth": 1,
    "chunk": 16,
    "timesteps": 4,
    "autoencoder_steps": 2,
    "encoder_steps": 2,
}
"""Settings by name, for whatever generator has one of that name and a number as its default."""


def module(hidden: int = HIDDEN) -> nn.Module:
    """A perceptron with one hidden layer, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return nn.Sequential(OrderedDict(fc1=nn.Linear(INPUTS, hidden), relu=nn.ReLU(), fc2=nn.Linear(hidden, CLASSES)))


@cache
def spec(hidden: int = HIDDEN) -> SymmetrySpec:
    """Its symmetry."""
    return trace(module(hidden), torch.randn(2, INPUTS))


def task(seed: int = 0, hidden: int = HIDDEN) -> Task:
    """Three blobs to be told apart, in two batches."""
    generator = torch.Generator().manual_seed(seed)
    classes = torch.arange(24) % CLASSES
    centres = 3 * torch.randn(CLASSES, INPUTS, generator=torch.Generator().manual_seed(9))
    return Task.classification(module(hidden), centres[classes] + torch.randn(24, INPUTS, generator=generator), classes, batch_size=12)


def networks(count: int = 6, seed: int = 0) -> WeightBatch:
    """Networks that were never trained."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {name: tensor.shape for name, tensor in module().state_dict().items()}
    return WeightBatch.stack(
        [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(count)], spec()
    )


def adapters(count: int = 6, seed: int = 0) -> WeightBatch:
    """Low-rank adapters of a perceptron, drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"fc1.lora_A.weight": (2, INPUTS), "fc1.lora_B.weight": (HIDDEN, 2)}
    drawn = [{name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in range(count)]
    return WeightBatch.stack(drawn, adapter_spec(drawn[0]))


def material(kind: Kind, condition: Tensor | None = None) -> Material:
    """What a kind of generator can learn from."""
    stacked = (adapters() if kind.name == "lora" else networks()) if "networks" in kind.learns else None
    target = Target.of_module(module(), spec()) if stacked is None else Target.of_networks(stacked)
    return Material(target, stacked, [task()], condition, parents=tuple(f"{at:064x}" for at in range(6)))


def conditions(count: int = 6) -> Tensor:
    """One number from 0 to 1 for each."""
    return torch.linspace(0, 1, count)[:, None]


def tiny(kind: Kind) -> dict[str, Any]:
    """Settings that make a generator small and quick."""
    return {
        name: type(default)(min(default, TINY[name]))
        for name, default in kind.settings.items()
        if name in TINY and isinstance(default, int | float) and not isinstance(default, bool)
    }


def wish(kind: Kind, condition: Tensor | None = None) -> Wish:
    """What is asked for; those that look at an architecture are given one."""
    if "architecture" in kind.takes:
        return Wish(condition, target=Target.of_module(module(), spec()), module=module())
    return Wish(condition)
