"""That two networks matched to a third one by weights are matched to each other, and by the straight-through estimator are not."""

from collections.abc import Iterator, Sequence

from weightspace.analysis.connectivity import barrier
from weightspace.experiments.barriers import POINTS, Bench
from weightspace.experiments.claim import Finding, above, at_most, claim
from weightspace.experiments.data import mnist
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train

SHAPE, WIDTH, STEPS = "mnist-mlp", 128, 600
ZERO = 0.02
"""Nats that count as no barrier."""


@claim(
    "by-way-of-a-third",
    statement="Two networks that weight matching moved onto a third have no barrier between them; moved by the straight-through estimator, they have.",
    source="Ito et al., Analysis of linear mode connectivity via permutation-based weight matching, arXiv:2402.04051, table 3",
    topic="connectivity",
    needs="real checkpoints",
    tries=("matching method weight", "matching method straight_through"),
)
def by_way_of_a_third(seeds: Sequence[int]) -> Iterator[Finding]:
    """Train three MNIST perceptrons a seed, and walk the line between two of them."""
    examples = mnist()
    bench = Bench.of(SHAPE, WIDTH, examples)
    networks = train(ARCHITECTURES[SHAPE], WIDTH, examples, [3 * seed + one for seed in seeds for one in range(3)], STEPS)
    found: dict[str, list[float]] = {}
    for a, b, anchor in zip(networks[::3], networks[1::3], networks[2::3], strict=True):
        for way in ("none", "weight", "straight_through"):
            first, second = (bench.align(way, anchor, one) for one in (a, b))
            found.setdefault(way, []).append(barrier(first, second, bench.test, POINTS).barrier)
    yield at_most("loss barrier by way of a third, matched by weights", found["weight"], ZERO, baseline=found["none"], against="unmatched")
    yield above(
        "loss barrier by way of a third, by the straight-through estimator", found["straight_through"], found["weight"], "by weights"
    )
