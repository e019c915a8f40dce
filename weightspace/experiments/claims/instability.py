"""That networks become stable to the noise of their batches early in training: from then on two copies stay linearly connected."""

from collections.abc import Iterator, Sequence

import torch

from weightspace.analysis.connectivity import barrier
from weightspace.experiments.claim import Finding, at_least, at_most, below, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train_from
from weightspace.task import Task

SHAPE, WIDTH, STEPS, FORKS = "mnist1d-mlp", 128, 1000, (0, 100, 500)
STABLE = 0.02
"""Error barrier below which the paper speaks of stability."""


@claim(
    "instability",
    statement="Two copies of a network trained on with other batches end with a barrier between them if they part at the start, and without one if they part later.",
    source="Frankle et al., Linear mode connectivity and the lottery ticket hypothesis, arXiv:1912.05671, section 3 and figure 3",
    topic="connectivity",
    seeds=5,
)
def instability(seeds: Sequence[int]) -> Iterator[Finding]:
    """Part after some steps, train both copies for as many more, and walk the line on test examples; rates fall anew after parting."""
    examples = mnist1d()
    module = ARCHITECTURES[SHAPE](WIDTH).eval()
    task = Task.classification(module, examples.test, examples.test_classes)
    trunks = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            trunks.append(ARCHITECTURES[SHAPE](WIDTH).state_dict())
    found: dict[int, list[float]] = {}
    done = 0
    for fork in FORKS:
        if fork > done:
            trunks = train_from(module, trunks, examples, [1000 + fork + seed for seed in seeds], fork - done)
            done = fork
        children = [train_from(module, trunks, examples, [10_000 * copy + fork + seed for seed in seeds], STEPS - fork) for copy in (1, 2)]
        found[fork] = [barrier(a, b, task, 11).barriers["accuracy"].interpolated for a, b in zip(*children, strict=True)]
    early, middle, late = FORKS
    yield at_least("error barrier of copies that part at the start", found[early], STABLE)
    yield below(f"error barrier of copies that part after {late} of {STEPS} steps", found[late], found[early], "that part at the start")
    yield below(f"error barrier of copies that part after {middle} steps", found[middle], found[early], "that part at the start")
    yield at_most(
        f"error barrier of copies that part after {late} steps", found[late], STABLE, baseline=found[early], against="at the start"
    )
