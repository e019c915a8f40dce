"""That weight matching climbs at every step, and that where it ends depends on the order in which layers are visited."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch

from weightspace.analysis.matching import match
from weightspace.experiments.barriers import Bench
from weightspace.experiments.claim import Finding, at_least, at_most, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train
from weightspace.symmetry import act

SHAPE, WIDTH, STEPS, ORDERS = "mnist1d-mlp", 64, 1000, 8
MOST_SWEEPS = 30


@claim(
    "visiting-order",
    statement="Coordinate descent by linear assignments never makes a match worse and stops after a few passes, but it stops at another optimum for another "
    "order of layers, and the merged network's accuracy varies with it.",
    source="Ainsworth et al., arXiv:2209.04836, section 3.2 and lemma 1; Crisostomi et al., C2M3, arXiv:2405.17897, section 1",
    topic="matching",
    seeds=5,
    tries=("matching method weight",),
)
def visiting_order(seeds: Sequence[int]) -> Iterator[Finding]:
    """Match each pair in eight random orders, each as one search from the identity."""
    examples = mnist1d()
    bench = Bench.of(SHAPE, WIDTH, examples)
    networks = train(ARCHITECTURES[SHAPE], WIDTH, examples, [2 * seed + one for seed in seeds for one in (0, 1)], STEPS)
    rows = []
    for a, b in zip(networks[::2], networks[1::2], strict=True):
        made = [match(a, b, bench.spec, generator=torch.Generator().manual_seed(order), shakes=0) for order in range(ORDERS)]
        objectives = [one.objective[-1] for one in made]
        steps = [(after - before) / abs(one.objective[-1]) for one in made for before, after in pairwise(one.objective)]
        middles = [{name: (tensor + moved[name]) / 2 for name, tensor in a.items()} for moved in (act(one.element, b) for one in made)]
        accuracies = [bench.test.evaluate(middle)["accuracy"] for middle in middles]
        rows.append(
            (min(steps), float(max(one.sweeps for one in made)), max(objectives) / min(objectives) - 1, max(accuracies) - min(accuracies))
        )
    least, sweeps, objective, accuracy = (list(column) for column in zip(*rows, strict=True))
    yield at_least("least relative step of the objective", least, -1e-7)
    yield at_most("passes over the layers, the most of eight orders", sweeps, float(MOST_SWEEPS))
    yield at_least("best objective over the worst of eight orders, less one", objective, 0.005)
    yield at_least("accuracy half-way, best less worst of eight orders", accuracy, 0.01)
