"""That CKA finds the same layer in a network of another seed, where canonical correlations do not."""

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from weightspace.analysis.functional.comparison import compare
from weightspace.checkpoint import Checkpoint
from weightspace.experiments.claim import Finding, above, at_least, claim
from weightspace.experiments.data import load
from weightspace.experiments.train import train
from weightspace.task import Task

WIDTH, DEPTH, STEPS, SAMPLES = 48, 6, 800, 1000


@claim(
    "cka-layers",
    statement="CKA identifies corresponding layers of networks trained from different initialisations, where canonical correlation analysis fails.",
    source="Kornblith et al., arXiv:1905.00414, section 6.1 and table 2",
    topic="stitching",
)
def cka_layers(seeds: Sequence[int]) -> Iterator[Finding]:
    """The share of hidden layers whose most similar one in another network is that of the same depth; the same before training."""
    data = load("mnist1d")
    task = Task.classification(_build(WIDTH), data.test[:SAMPLES], data.test_classes[:SAMPLES])
    numbers = [2 * seed + at for seed in seeds for at in range(2)]
    trained = train(_build, WIDTH, data, numbers, STEPS)
    ours, cca, untrained = [], [], []
    for at, _ in enumerate(seeds):
        pair = trained[2 * at], trained[2 * at + 1]
        ours.append(_found(task, pair, "cka_debiased"))
        cca.append(_found(task, pair, "cca"))
        untrained.append(_found(task, (_drawn(numbers[2 * at]), _drawn(numbers[2 * at + 1])), "cka_debiased"))
    yield at_least("share of layers found by CKA", ours, 0.9, baseline=untrained, against="networks before training")
    yield above("share of layers found by CKA", ours, cca, "mean canonical correlation")


def _build(width: int) -> nn.Sequential:
    sizes = [40, *[width] * DEPTH]
    layers = [
        layer
        for at, (columns, rows) in enumerate(itertools.pairwise(sizes), 1)
        for layer in ((f"fc{at}", nn.Linear(columns, rows)), (f"relu{at}", nn.ReLU()))
    ]
    return nn.Sequential(OrderedDict([*layers, ("head", nn.Linear(width, 10))]))


def _drawn(seed: int) -> Mapping[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _build(WIDTH).state_dict()


def _found(task: Task, pair: tuple[Mapping[str, Tensor], Mapping[str, Tensor]], kind: str) -> float:
    layers = [f"relu{at}" for at in range(1, DEPTH + 1)]
    table = torch.tensor(compare(task, Checkpoint.of(pair[0]), Checkpoint.of(pair[1]), kind, layers=layers).table)
    both = torch.cat([table.argmax(0), table.argmax(1)])
    return float((both == torch.arange(DEPTH).repeat(2)).double().mean())
