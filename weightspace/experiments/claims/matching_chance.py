"""That weight matching brings trained networks only a little nearer to each other, and how much of that is chance."""

from collections.abc import Iterator, Sequence

import torch

from weightspace.analysis.connectivity import barrier
from weightspace.analysis.matching import match, null_reduction
from weightspace.experiments.barriers import POINTS, Bench
from weightspace.experiments.claim import Finding, above, at_least, at_most, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train

SHAPE, WIDTH, STEPS = "mnist1d-mlp", 128, 1000
LEAST, MOST = 0.06, 0.20


@claim(
    "matching-chance",
    statement="Weight matching shortens the distance between two networks by no more than 6 to 20 percent, though the barrier all but vanishes.",
    source="Ito et al., Analysis of linear mode connectivity via permutation-based weight matching, arXiv:2402.04051, table 1",
    topic="matching",
    seeds=5,
    tries=("matching method weight",),
)
def matching_chance(seeds: Sequence[int]) -> Iterator[Finding]:
    """Match trained pairs on MNIST-1D, and random networks of the same singular values."""
    examples = mnist1d()
    bench = Bench.of(SHAPE, WIDTH, examples)
    networks = train(ARCHITECTURES[SHAPE], WIDTH, examples, [2 * seed + one for seed in seeds for one in (0, 1)], STEPS)
    reductions, nulls, shares = [], [], []
    for seed, a, b in zip(seeds, networks[::2], networks[1::2], strict=True):
        reductions.append(match(a, b, bench.spec).reduction)
        nulls.append(null_reduction(a, b, bench.spec, draws=2, generator=torch.Generator().manual_seed(1000 + seed)).mean)
        before, after = (
            barrier(a, bench.align(way, a, b), bench.test, POINTS).barriers["accuracy"].interpolated for way in ("none", "weight")
        )
        shares.append(after / before)
    chance = "random networks of the same singular values"
    yield at_least("share of the distance taken away", reductions, LEAST, baseline=nulls, against=chance)
    yield at_most("the same", reductions, MOST, baseline=nulls, against=chance)
    yield above("the same, against chance", reductions, nulls, chance)
    yield at_most("share of the accuracy barrier that is left", shares, 0.1)
