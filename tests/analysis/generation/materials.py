"""Small things to generate: networks of one architecture, tasks with and without conditions, and tiny settings for every generator."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import cycle
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


def material(kind: Kind, condition: Tensor | None = None, dtypes: Sequence[torch.dtype] = (torch.float32,)) -> Material:
    """What a kind of generator can learn from.

    Args:
        kind: of generator.
        condition: of each network or task.
        dtypes: of the tensors of networks, in turn; of a module, which takes one alone, the first.
    """
    parents = tuple(f"{at:064x}" for at in range(6))
    if "networks" not in kind.learns:
        given = task()
        batches = [(inputs.to(dtypes[0]), classes) for inputs, classes in given.batches]
        given = replace(given, module=module().to(dtypes[0]), batches=batches)
        return Material(Target.of_module(given.module, spec()), None, [given], condition, parents)
    stacked = adapters() if kind.name == "lora" else networks()
    each = dict(zip(stacked.tensors, cycle(dtypes), strict=False))
    stacked = replace(stacked, tensors={name: tensor.to(each[name]) for name, tensor in stacked.tensors.items()})
    return Material(Target.of_networks(stacked), stacked, [task()], condition, parents)


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


def wish(kind: Kind, condition: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Wish:
    """What is asked for; those that look at an architecture are given one."""
    if "architecture" in kind.takes:
        own = module().to(dtype)
        return Wish(condition, target=Target.of_module(own, spec()), module=own)
    return Wish(condition)
