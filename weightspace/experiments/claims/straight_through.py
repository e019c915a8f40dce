"""That the straight-through estimator finds lower barriers than matching by weights or by activations."""

from collections.abc import Iterator, Sequence

from weightspace.analysis.connectivity import barrier
from weightspace.experiments.barriers import POINTS, Bench
from weightspace.experiments.claim import Finding, below, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train

SHAPE, WIDTH, STEPS = "mnist1d-mlp", 128, 1000


@claim(
    "straight-through",
    statement="Learned by a straight-through estimator, permutations leave a lower barrier than those from matching weights or activations.",
    source="Ainsworth et al., Git Re-Basin, arXiv:2209.04836, sections 3.3 and 5.1",
    topic="matching",
    seeds=5,
    tries=("matching method straight_through", "matching method weight", "matching method activation"),
)
def straight_through(seeds: Sequence[int]) -> Iterator[Finding]:
    """Match pairs of MNIST-1D perceptrons in all three ways, and measure barriers on test examples."""
    examples = mnist1d()
    bench = Bench.of(SHAPE, WIDTH, examples)
    networks = train(ARCHITECTURES[SHAPE], WIDTH, examples, [2 * seed + one for seed in seeds for one in (0, 1)], STEPS)
    curves = {
        way: [barrier(a, bench.align(way, a, b), bench.test, POINTS) for a, b in zip(networks[::2], networks[1::2], strict=True)]
        for way in ("straight_through", "weight", "activation")
    }
    for quantity in ("loss", "accuracy"):
        found = {way: [curve.barriers[quantity].interpolated for curve in own] for way, own in curves.items()}
        for other in ("weight", "activation"):
            yield below(f"{quantity} barrier", found["straight_through"], found[other], f"matched by {other}")
