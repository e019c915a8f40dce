"""That a graph hypernetwork gives networks of unseen architectures accuracy without training."""

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from weightspace.analysis.generation import Target
from weightspace.analysis.generation.generators.ghn import GraphHypernetwork
from weightspace.analysis.generation.graphs.graph import ArchitectureGraph
from weightspace.analysis.generation.graphs.reading import read
from weightspace.experiments.claim import Finding, above, at_least, claim
from weightspace.experiments.ghn import Bench

SEEN, UNSEEN, STEPS = 30, 8, 200
EARLY = 30  # steps of training after which initialisations are compared


@claim(
    "graph-hypernetwork",
    statement="A graph hypernetwork makes weights for architectures it never saw that work without training and are a better start for it.",
    source="Knyazev et al., Parameter Prediction for Unseen Deep Architectures, arXiv:2110.13100, abstract; as a start: Knyazev et al., arXiv:2303.04143",
    topic="generation",
)
def graph_hypernetwork(seeds: Sequence[int]) -> Iterator[Finding]:
    """Learn from 30 random networks for MNIST-1D, judge on 8 others, beside Kaiming's initialisation."""
    bench = _bench()
    ours, kaiming, later, beside = (list[float]() for _ in range(4))
    for seed in seeds:
        made = _learned(seed)
        ours.append(_mean([bench.accuracy(at, _predicted(made, at)) for at in _unseen()]))
        kaiming.append(_mean([bench.accuracy(at, bench.kaiming(at, seed)) for at in _unseen()]))
        later.append(_mean([bench.curve(at, _predicted(made, at), seed, EARLY)[-1] for at in _unseen()]))
        beside.append(_mean([bench.curve(at, bench.kaiming(at, seed), seed, EARLY)[-1] for at in _unseen()]))
    yield at_least("accuracy of unseen architectures, untrained", ours, 0.3, baseline=kaiming, against="Kaiming initialisation")
    yield above(f"accuracy after {EARLY} steps of training", later, beside, "Kaiming initialisation")


@cache
def _bench() -> Bench:
    return Bench(Path("unused"))


@cache
def _graph(at: int) -> ArchitectureGraph:
    return read(_bench().modules[at], _bench().examples.train[:2])


def _unseen() -> range:
    return range(SEEN, SEEN + UNSEEN)


def _learned(seed: int) -> GraphHypernetwork:
    bench = _bench()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = GraphHypernetwork(bench.targets[0], steps=STEPS)
    made.learn_on([_graph(at) for at in range(SEEN)], bench.tasks[:SEEN], generator=torch.Generator().manual_seed(seed))
    return made.eval()


@torch.no_grad()
def _predicted(made: GraphHypernetwork, at: int) -> dict[str, Tensor]:
    target: Target = _bench().targets[at]
    [weights] = made.weights([_graph(at)], [target])
    return weights


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
