"""Forgetting with and without the output regulariser: five pairs of classes of MNIST-1D learned one after another.

Results are kept line by line, so that it may be ended and run again:

    python -m weightspace.experiments.continual --results results.jsonl [--seeds 5]
    python -m weightspace.experiments.continual --results results.jsonl --report

Which pair a signal belongs to is known. Forgetting is the accuracy on the test signals of a pair just after it was learned, less that after
the last, mean over all pairs but the last. Beside it: all pairs learned at once for as many steps, and a network for each.
"""

import argparse
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from weightspace.analysis.generation import Material, Target, Wish, fit, sample
from weightspace.analysis.generation.fitting import make
from weightspace.analysis.generation.hypernetworks.continual import learn_in_turn
from weightspace.analysis.generation.hypernetworks.hypernetwork import Hypernetwork
from weightspace.experiments.resumable import Lines, command_line, is_known, keep, perform
from weightspace.experiments.tables import Estimate, Row, markdown
from weightspace.task import Task
from weightspace.zoo.populations import data

PAIRS, STEPS, BATCH = 5, 250, 64
RATES = {"chunked": 3e-3, "recurrent": 1e-3}
WAYS: Mapping[str, Mapping[str, Any]] = {
    "beta 0": {"beta": 0.0},
    "beta 0.1": {"beta": 0.1},
    "beta 0.1, look-ahead": {"beta": 0.1, "look_ahead": True},
    "beta 0.1, one earlier task a step": {"beta": 0.1, "at_once": 1},
}
ALL_AT_ONCE = "all at once"


def module() -> nn.Module:
    """What weights are made for."""
    layers = [("fc1", nn.Linear(40, 64)), ("relu1", nn.ReLU()), ("fc2", nn.Linear(64, 32)), ("relu2", nn.ReLU()), ("fc3", nn.Linear(32, 2))]
    return nn.Sequential(OrderedDict(layers))


@cache
def tasks() -> tuple[list[Task], list[Task]]:
    """Each pair to learn from and to be judged by."""
    found, net = data.load("mnist1d"), module()
    parts: tuple[list[Task], list[Task]] = ([], [])
    for pair in range(PAIRS):
        for inputs, classes, into, size in (
            (found.train, found.train_classes, parts[0], BATCH),
            (found.test, found.test_classes, parts[1], 10_000),
        ):
            own = (classes // 2 == pair).nonzero()[:, 0]
            into.append(Task.classification(net, inputs[own], classes[own] % 2, batch_size=size))
    return parts


def accuracies(made: Hypernetwork, target: Target, pairs: Sequence[int]) -> list[float]:
    """Accuracy on the test signals of some pairs."""
    drawn = sample(made, len(pairs), Wish(condition=torch.tensor(pairs)))
    rows = [target.whole({name: tensor[at] for name, tensor in drawn.items()}) for at in range(len(pairs))]
    return [tasks()[1][pair].evaluate(row)["accuracy"] for pair, row in zip(pairs, rows, strict=True)]


def in_turn(name: str, way: str, seed: int) -> dict[str, float]:
    """Learn pair after pair."""
    torch.manual_seed(seed)
    target, conditions = Target.of_module(module()), torch.arange(PAIRS)
    made = make(name, target, (), {})
    assert isinstance(made, Hypernetwork)
    made.code.know(conditions)
    just: list[float] = []

    def after(at: int) -> None:
        just.extend(accuracies(made, target, [at]))

    generator = torch.Generator().manual_seed(seed)
    learn_in_turn(
        made, target, tasks()[0], conditions, steps=STEPS, learning_rate=RATES[name], generator=generator, after=after, **WAYS[way]
    )
    last = accuracies(made, target, range(PAIRS))
    lost = [before - now for before, now in zip(just[:-1], last[:-1], strict=True)]
    return {
        "just learned": mean(just),
        "after the last": mean(last),
        "worst pair": min(last),
        "forgetting": 100 * mean(lost),
        "parameters": sum(map(torch.numel, made.parameters())),
    }


def at_once(name: str, seed: int) -> dict[str, float]:
    """Learn all pairs together."""
    material = Material(Target.of_module(module()), tasks=tasks()[0], conditions=torch.arange(PAIRS))
    settings: dict[str, Any] = {"steps": STEPS, "learning_rate": RATES[name], "together": PAIRS}
    made = fit(name, material, generator=torch.Generator().manual_seed(seed), **settings)
    assert isinstance(made, Hypernetwork)
    last = accuracies(made, material.target, range(PAIRS))
    return {"after the last": mean(last), "worst pair": min(last), "parameters": sum(map(torch.numel, made.parameters()))}


def mean(values: Sequence[float]) -> float:
    """The plain mean."""
    return sum(values) / len(values)


def run(options: argparse.Namespace) -> None:
    """Measure what is not known yet."""
    for way in (*WAYS, ALL_AT_ONCE):
        for seed in range(options.seeds):
            for name in RATES:
                here = {"generator": name, "way": way, "seed": seed}
                if is_known(options.results, here):
                    continue
                start = time.process_time()
                row = here | (at_once(name, seed) if way == ALL_AT_ONCE else in_turn(name, way, seed))
                row["cpu"] = time.process_time() - start
                keep(options.results, [row])
                print(row, flush=True)


def report(rows: Lines) -> Iterator[str]:
    """A table: means over the seeds with 95 % intervals; forgetting in points."""
    lines: list[Row] = []
    for name in RATES:
        for way in (*WAYS, ALL_AT_ONCE):
            own = [row for row in rows if (row["generator"], row["way"]) == (name, way)]
            if own:
                columns = ("just learned", "after the last", "worst pair", "forgetting")
                estimated = {key: Estimate.of([row[key] for row in own]) if key in own[0] else "-" for key in columns}
                lines.append({"hypernetwork": name, "way": way, **estimated, "seeds": len(own)})
    yield markdown(lines)


def main() -> None:
    """Read the options and run."""
    parser = command_line(__doc__ or "")
    perform(parser, run, report)


if __name__ == "__main__":
    main()
