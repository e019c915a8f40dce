"""That two wide perceptrons of other seeds have no barrier between them once their units are matched."""

from collections.abc import Iterator, Sequence

from weightspace.analysis.connectivity import barrier
from weightspace.experiments.barriers import POINTS, Bench
from weightspace.experiments.claim import Finding, at_most, below, claim
from weightspace.experiments.data import mnist
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train

SHAPE, WIDTH, STEPS = "mnist-mlp", 256, 600
ZERO = 0.02
"""Nats that count as no barrier: one hundredth of that of two unmatched networks, or so."""
WAYS = {
    "none": "unmatched",
    "weight": "by weights",
    "activation": "by activations",
    "straight_through": "by the straight-through estimator",
}


@claim(
    "rebasin-mnist",
    statement="Matched by weights, by activations or by the straight-through estimator, two MNIST perceptrons are linearly connected without a barrier, "
    "and the middle is better than both ends.",
    source="Ainsworth et al., Git Re-Basin, arXiv:2209.04836, section 5.1 and figure 2",
    topic="matching",
    needs="real checkpoints",
    tries=("matching method weight", "matching method activation", "matching method straight_through"),
)
def rebasin_mnist(seeds: Sequence[int]) -> Iterator[Finding]:
    """Train pairs on 8,000 images, match them in three ways, and walk the line on 2,000 others."""
    examples = mnist()
    bench = Bench.of(SHAPE, WIDTH, examples)
    networks = train(ARCHITECTURES[SHAPE], WIDTH, examples, [2 * seed + one for seed in seeds for one in (0, 1)], STEPS)
    curves = {
        way: [barrier(a, bench.align(way, a, b), bench.test, POINTS) for a, b in zip(networks[::2], networks[1::2], strict=True)]
        for way in WAYS
    }
    barriers = {way: [curve.barrier for curve in own] for way, own in curves.items()}
    for way in list(WAYS)[1:]:
        yield at_most(f"loss barrier in nats, matched {WAYS[way]}", barriers[way], ZERO, baseline=barriers["none"], against=WAYS["none"])
    lines = [curve.losses for curve in curves["weight"]]
    yield below(
        "loss half-way, matched by weights",
        [line[len(line) // 2] for line in lines],
        [min(line[0], line[-1]) for line in lines],
        "the better end",
    )
