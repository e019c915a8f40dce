"""That weight matching, which looks at no data, does as well as activation matching, which does."""

from collections.abc import Iterator, Sequence

from weightspace.analysis.connectivity import barrier
from weightspace.experiments.barriers import POINTS, Bench
from weightspace.experiments.claim import Finding, at_most, below, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train

SHAPES, STEPS = {"mnist1d-mlp": 128, "mnist1d-cnn": 16}, 1000
AS_GOOD = 0.02
"""Of accuracy: a barrier higher by no more counts as no worse."""


@claim(
    "data-free-matching",
    statement="Matching weights, which looks at no data at all, is about as good as matching activations.",
    source="Ainsworth et al., Git Re-Basin, arXiv:2209.04836, sections 3.2 and 5.1",
    topic="matching",
    tries=("matching method weight", "matching method activation"),
)
def data_free_matching(seeds: Sequence[int]) -> Iterator[Finding]:
    """Compare accuracy barriers on the same pairs of MNIST-1D networks, of perceptrons and of convolutions."""
    examples = mnist1d()
    for shape, width in SHAPES.items():
        bench = Bench.of(shape, width, examples)
        networks = train(ARCHITECTURES[shape], width, examples, [2 * seed + one for seed in seeds for one in (0, 1)], STEPS)
        pairs = list(zip(networks[::2], networks[1::2], strict=True))
        found = {
            way: [barrier(a, bench.align(way, a, b), bench.test, POINTS).barriers["accuracy"].interpolated for a, b in pairs]
            for way in ("none", "weight", "activation", "activation, inner")
        }
        best = [min(pair) for pair in zip(found["activation"], found["activation, inner"], strict=True)]
        kind = shape.partition("-")[2]
        excess = [one - other for one, other in zip(found["weight"], best, strict=True)]
        yield at_most(f"accuracy barrier by weights less the better by activations, {kind}", excess, AS_GOOD)
        yield below(f"accuracy barrier by weights, {kind}", found["weight"], found["none"], "unmatched")
