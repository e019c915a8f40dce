"""Networks of MNIST-1D for stitching, of several seeds and recipes, with the examples that stitches are found on and judged by."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import nn

from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.layer import Stitch
from weightspace.analysis.stitching.matrix import loaded_chain
from weightspace.analysis.stitching.patchwork import stitched
from weightspace.analysis.stitching.penalty import redrawn
from weightspace.analysis.stitching.task_matching import match_task
from weightspace.experiments.data import load
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.similarity_maps import FITTED, JUDGED, STITCH_RATE, WIDTHS, learned
from weightspace.task import Task

EPOCHS = 4


@cache
def tasks(name: str) -> tuple[Task, Task]:
    """Examples to find stitches on, and others to judge by."""
    examples, module = load("mnist1d"), ARCHITECTURES[name](WIDTHS[name]).eval()
    return (
        Task.classification(module, examples.train[-FITTED:], examples.train_classes[-FITTED:]),
        Task.classification(module, examples.test[:JUDGED], examples.test_classes[:JUDGED]),
    )


@cache
def chains(name: str, made: str, seeds: tuple[int, ...]) -> list[Chain]:
    """The networks of one recipe (of `similarity_maps.MADE`, or `random`), cut into parts."""
    fit = tasks(name)[0]
    if made == "random":
        return [loaded_chain(fit, redrawn(fit.module, torch.Generator().manual_seed(seed)).state_dict()) for seed in seeds]
    return [loaded_chain(fit, state) for state in learned(name, made, seeds)]


def of(name: str, made: str, seeds: Sequence[int]) -> list[Chain]:
    """The same, for any sequence of seeds."""
    return chains(name, made, tuple(seeds))


def accuracy(name: str, network: nn.Module) -> float:
    """Of a whole network."""
    return replace(tasks(name)[1], module=network).evaluate(network.state_dict())["accuracy"]


def joined(name: str, front: Chain, end: Chain, cut: int, stitch: Stitch, start: int | None = None) -> float:
    """Accuracy of an end behind a stitch and a front, both cut at one place; `start` is another cut of the front, -1 its input."""
    return accuracy(name, stitched(front, end, stitch, (cut if start is None else start, cut)))


def trained(name: str, front: Chain, end: Chain, cut: int, start: int | None = None) -> Stitch:
    """A stitch trained on the task through the frozen end, from where least squares ended."""
    pair = (cut if start is None else start, cut)
    return match_task(front, end, tasks(name)[0], pair, epochs=EPOCHS, learning_rate=STITCH_RATE)
