"""Adapters generated for a change of their task, beside means, retrieval and noise.

A zoo of low-rank adapters of one perceptron on MNIST-1D. Each is for signals rolled along by some places (`shift`, told by sines and cosines of
its angle; every fourth shift is held out), or for labels exchanged (`labels`, told by the matrix of the permutation; a quarter of the adapters,
each with a permutation of its own, is held out). Judged by accuracy on the test signals of ten tasks seen and ten held out.
"""

import argparse
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightspace.analysis.generation import Material, Target, Wish, fit, sample
from weightspace.analysis.generation.adapters.factors import aligned, closed, mean_product, opened, pairs_in
from weightspace.analysis.generation.adapters.spaces import SPACES, ProductSpace
from weightspace.experiments.resumable import Lines, command_line, keep, known, perform
from weightspace.experiments.tables import with_interval
from weightspace.metanets import WeightBatch
from weightspace.metanets.low_rank import adapter_spec
from weightspace.zoo.populations import loras, populations
from weightspace.zoo.populations.data import load
from weightspace.zoo.populations.training import judged

PLACES, CLASSES = 40, 10
ASKED, DRAWN = 10, 4
SIGMAS = (0.1, 0.3, 1.0)
HARMONICS = 3

Stacked = Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class Data:
    """A zoo of adapters with their tasks: all, the numbers of those to learn from, and of those whose task is asked for."""

    tensors: Stacked
    task: str
    values: list[list[int]]
    module: torch.nn.Module
    seed: int

    @cached_property
    def conditions(self) -> Tensor:
        """What a generator is told of each task."""
        values = torch.tensor(self.values)
        if self.task == "labels":
            return torch.nn.functional.one_hot(values, CLASSES).flatten(1).float()
        turns = values * torch.arange(1, HARMONICS + 1) * (2 * math.pi / PLACES)
        return torch.cat([turns.sin(), turns.cos()], 1)

    @cached_property
    def is_new(self) -> Tensor:
        """Which are held out."""
        return torch.tensor([(value[0] if self.task == "shift" else at) % 4 == 2 for at, value in enumerate(self.values)])

    @cached_property
    def learned(self) -> Tensor:
        """Adapters that may be learned from."""
        return (~self.is_new).nonzero()[:, 0]

    @cached_property
    def target(self) -> Target:
        """The adapters' tensors."""
        return Target({name: tuple(tensor.shape[1:]) for name, tensor in self.tensors.items()})

    @cached_property
    def products(self) -> Tensor:
        """Of those to learn from."""
        return products(self.take(self.learned), self.target)

    @cached_property
    def apart(self) -> float:
        """How far an adapter lies from the nearest other one: the median."""
        return float(torch.cdist(self.products, self.products).fill_diagonal_(math.inf).amin(1).median())

    def asked(self, new: bool) -> list[int]:
        """An adapter for each of some different tasks."""
        first = {tuple(value): at for at, value in reversed(list(enumerate(self.values))) if bool(self.is_new[at]) == new}
        numbers = sorted(first.values())
        order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(self.seed)).tolist()
        return [numbers[at] for at in order[:ASKED]]

    def take(self, at: Tensor) -> Stacked:
        """Some adapters."""
        return {name: tensor[at] for name, tensor in self.tensors.items()}

    def nearest(self, task: int) -> Tensor:
        """Adapters to learn from whose condition is nearest."""
        apart = torch.cdist(self.conditions[task][None], self.conditions[self.learned])[0]
        return self.learned[apart < apart.min() + 1e-3]

    def accuracy(self, tensors: Stacked, task: int) -> list[float]:
        """Test accuracy of adapters on the task of one of them."""
        examples, value = load("mnist1d"), self.values[task]
        inputs, classes = examples.test, examples.test_classes
        changed = (inputs.roll(value[0], 1), classes) if self.task == "shift" else (inputs, torch.tensor(value)[classes])
        return [one["accuracy"] for one in judged(self.module, dict(tensors), *changed)]


def made_zoo(task: str, seed: int, count: int, rank: int) -> Data:
    """Train the adapters."""
    made: Any = populations["loras"](seed=seed, count=count, tasks=[task], ranks=[rank], jobs=1)
    _, *added = made
    states = [one.tensors.state_dict() for one in added]
    values = [[int(word) for word in one.recipe["hyperparameters"]["values"].split()] for one in added]
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    return Data(stacked, task, values, loras.build(added[0].recipe), seed)


Sampler = Callable[[int, torch.Generator], Stacked]
"""Makes adapters for the task of one."""


def generated(**settings: Any) -> Callable[[Data], Sampler]:
    """The generator `lora`."""

    def learn(data: Data) -> Sampler:
        known = data.take(data.learned)
        networks = WeightBatch.stack(
            [{name: tensor[at] for name, tensor in known.items()} for at in range(len(data.learned))],
            adapter_spec({name: tensor[0] for name, tensor in known.items()}),
        )
        material = Material(Target.of_networks(networks), networks, conditions=data.conditions[data.learned])
        fitted = fit("lora", material, generator=torch.Generator().manual_seed(data.seed), **settings)
        return lambda task, generator: sample(fitted, DRAWN, Wish(data.conditions[task]), generator=generator)

    return learn


def retrieval(data: Data) -> Sampler:
    """Adapters of the nearest condition as they are."""
    return lambda task, generator: data.take(_some(data.nearest(task), generator))


def noised(sigma: float) -> Callable[[Data], Sampler]:
    """The same with noise, in standard deviations of each tensor."""

    def learn(data: Data) -> Sampler:
        def draw(task: int, generator: torch.Generator) -> Stacked:
            found = data.take(_some(data.nearest(task), generator))
            return {name: one + sigma * one.std() * torch.randn(one.shape, generator=generator) for name, one in found.items()}

        return draw

    return learn


def mean_of_factors(data: Data) -> Sampler:
    """The mean of the factors of the adapters of the nearest condition."""
    return lambda task, generator: {name: one.mean(0, keepdim=True) for name, one in data.take(data.nearest(task)).items()}


def mean_of_products(everything: bool = False, *, alignment: bool = False) -> Callable[[Data], Sampler]:
    """The mean of the products, cut to the rank by SVD; or of aligned factors."""

    def learn(data: Data) -> Sampler:
        pairs = pairs_in(data.target)

        def draw(task: int, generator: torch.Generator) -> Stacked:
            chosen = data.learned if everything else data.nearest(task)
            found = opened(data.take(chosen), pairs)
            if alignment:
                means = [(b.mean(0, keepdim=True), a.mean(0, keepdim=True)) for b, a in map(aligned, found)]
            else:
                means = [mean_product(one) for one in found]
            return closed(means, pairs, data.target)

        return draw

    return learn


def regression(data: Data) -> Sampler:
    """Products told by a ridge regression on the conditions, cut to the rank."""
    space = ProductSpace(data.target, len(data.learned))
    rows = space.learn(data.take(data.learned)).double()
    known = torch.nn.functional.pad(data.conditions.double(), (0, 1), value=1.0)
    some = known[data.learned]
    found = torch.linalg.solve(some.T @ some + torch.eye(known.shape[1]), some.T @ rows)
    return lambda task, generator: space.grow((known[task, None] @ found).float())


def without(data: Data) -> Sampler:
    """The base alone."""
    return lambda task, generator: {name: torch.zeros_like(tensor[:1]) for name, tensor in data.tensors.items()}


def _some(found: Tensor, generator: torch.Generator) -> Tensor:
    return found[torch.randint(len(found), (DRAWN,), generator=generator)]


METHODS: Mapping[str, Callable[[Data], Sampler]] = {
    **{f"lora, {space}": generated(space=space, steps=1500) for space in SPACES},
    "retrieval": retrieval,
    "mean of nearest, factors": mean_of_factors,
    "mean of nearest, aligned": mean_of_products(alignment=True),
    "mean of nearest, products": mean_of_products(),
    "mean of all, products": mean_of_products(everything=True),
    "regression of products": regression,
    **{f"noise {sigma:g}": noised(sigma) for sigma in SIGMAS},
    "base alone": without,
}


def measured(data: Data, draw: Sampler) -> dict[str, float]:
    """Accuracy on tasks seen and held out, and how far from the nearest adapter what is drawn lies, in units of the zoo's own."""
    generator = torch.Generator().manual_seed(1000 + data.seed)
    found, apart = {}, []
    for name, new in (("seen", False), ("held out", True)):
        right = []
        for task in data.asked(new):
            made = draw(task, generator)
            right.append(float(np.mean(data.accuracy(made, task))))
            apart.append(torch.cdist(products(made, data.target), data.products).amin(1).mean())
        found[name] = float(np.mean(right))
    return found | {"novelty": float(torch.stack(apart).mean() / data.apart)}


def products(tensors: Stacked, target: Target) -> Tensor:
    """The products of adapters, in a row each."""
    return torch.cat([(b @ a).flatten(1) for b, a in opened(tensors, pairs_in(target))], 1).float()


def zoo_itself(data: Data) -> list[dict[str, Any]]:
    """The accuracy of the adapters that were trained on each task: mean, and best of those there are."""
    rows: dict[str, dict[str, Any]] = {"zoo mean": {}, "zoo best": {}}
    for name, new in (("seen", False), ("held out", True)):
        own = [[at for at, value in enumerate(data.values) if value == data.values[task]] for task in data.asked(new)]
        right = [data.accuracy(data.take(torch.tensor(some)), some[0]) for some in own]
        rows["zoo mean"][name] = float(np.mean([np.mean(some) for some in right]))
        rows["zoo best"][name] = float(np.mean([max(some) for some in right]))
    return [{"method": name} | row for name, row in rows.items()]


def run(options: argparse.Namespace) -> None:
    """Measure what is not known yet."""
    for seed in range(options.first, options.first + options.seeds):
        there = {row["method"] for row in known(options.results) if row["seed"] == seed and row["task"] == options.task}
        if there >= {*METHODS, "zoo mean"}:
            continue
        data = made_zoo(options.task, seed, options.count, options.rank)
        rows = [] if "zoo mean" in there else zoo_itself(data)
        for name, learn in METHODS.items():
            if name not in there and (not options.only or name in options.only):
                rows = [*rows, {"method": name} | measured(data, learn(data))]
            keep(options.results, [{"task": options.task, "seed": seed} | row for row in rows])
            print(seed, rows, flush=True)
            rows = []


def report(everything: Lines) -> Iterator[str]:
    """A markdown table for each kind of task: means over the zoos, half the 95 % interval, paired differences to retrieval."""
    for task in dict.fromkeys(row["task"] for row in everything):
        rows = [row for row in everything if row["task"] == task]
        base = {row["seed"]: row["held out"] for row in rows if row["method"] == "retrieval"}
        yield f"\n**{task}**\n\n| method | seen | held out | held out minus retrieval | novelty | zoos |\n|-|-|-|-|-|-|"
        for name in ("zoo mean", "zoo best", *METHODS):
            mine = [row for row in rows if row["method"] == name]
            if mine:
                apart = [row["held out"] - base[row["seed"]] for row in mine if row["seed"] in base]
                novelty = f"{np.mean([row['novelty'] for row in mine]):.2f}" if "novelty" in mine[0] else ""
                cells = [
                    with_interval([row["seen"] for row in mine]),
                    with_interval([row["held out"] for row in mine]),
                    with_interval(apart),
                    novelty,
                ]
                yield f"| {name} | {' | '.join(cells)} | {len(mine)} |"


def main() -> None:
    """Read the options and run."""
    parser = command_line(__doc__ or "")
    parser.add_argument("--first", type=int, default=0, help="first seed; settings were chosen on seed 100")
    parser.add_argument("--task", choices=["shift", "labels"], default="shift")
    parser.add_argument("--count", type=int, default=240)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--only", nargs="*")
    perform(parser, run, report)


if __name__ == "__main__":
    main()
