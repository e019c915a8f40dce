"""That barriers between networks of other seeds grow with depth."""

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import partial

from torch import nn

import weightspace as ws
from weightspace.analysis.connectivity import barrier
from weightspace.analysis.matching import match
from weightspace.experiments.claim import Finding, above, claim
from weightspace.experiments.data import Examples, mnist1d
from weightspace.experiments.networks import CLASSES
from weightspace.experiments.train import train
from weightspace.symmetry import act
from weightspace.task import Task

INPUTS, WIDTH, STEPS, DEPTHS = 40, 64, 1000, (1, 2, 4)


@claim(
    "barrier-depth",
    statement="The barrier between networks of different seeds grows with their depth, also once permutations are taken out.",
    source="Entezari et al., The role of permutation invariance in linear mode connectivity, arXiv:2110.06296, section 3.2",
    topic="connectivity",
    seeds=5,
)
def barrier_depth(seeds: Sequence[int]) -> Iterator[Finding]:
    """Train pairs of one, two and four hidden layers on MNIST-1D, and walk the line before and after weight matching."""
    examples = mnist1d()
    found = {depth: _barriers(depth, examples, seeds) for depth in DEPTHS}
    for matched, what in ((0, "unmatched"), (1, "matched by weights")):
        for shallow, deep in itertools.pairwise(DEPTHS):
            yield above(
                f"loss barrier, {what}, {deep} hidden layers", found[deep][matched], found[shallow][matched], f"{shallow} hidden layers"
            )


def perceptron(depth: int, width: int) -> nn.Sequential:
    """A perceptron of so many hidden layers."""
    sizes = [INPUTS, *[width] * depth]
    layers: list[tuple[str, nn.Module]] = []
    for at, (columns, rows) in enumerate(itertools.pairwise(sizes), 1):
        layers += [(f"fc{at}", nn.Linear(columns, rows)), (f"relu{at}", nn.ReLU())]
    return nn.Sequential(OrderedDict([*layers, ("head", nn.Linear(width, CLASSES))]))


def _barriers(depth: int, examples: Examples, seeds: Sequence[int]) -> tuple[list[float], list[float]]:
    module = perceptron(depth, WIDTH).eval()
    spec = ws.trace(module, examples.test[:4])
    task = Task.classification(module, examples.test, examples.test_classes)
    networks = train(partial(perceptron, depth), WIDTH, examples, [2 * seed + one for seed in seeds for one in (0, 1)], STEPS)
    pairs = list(zip(networks[::2], networks[1::2], strict=True))
    plain = [barrier(a, b, task, 11).barrier for a, b in pairs]
    return plain, [barrier(a, act(match(a, b, spec).element, b), task, 11).barrier for a, b in pairs]
