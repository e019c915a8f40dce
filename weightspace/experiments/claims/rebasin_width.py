"""That matched networks are the nearer to being linearly connected the wider they are."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from weightspace.analysis.connectivity import barrier
from weightspace.experiments.barriers import POINTS, Bench
from weightspace.experiments.claim import Finding, below, claim
from weightspace.experiments.data import Examples, mnist
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train

SHAPE, WIDTHS, STEPS = "mnist-mlp", (8, 32, 128), 600


@claim(
    "rebasin-width",
    statement="After weight matching the barrier between networks falls with their width.",
    source="Ainsworth et al., Git Re-Basin, arXiv:2209.04836, section 5.3 and figure 4",
    topic="matching",
    seeds=5,
    needs="real checkpoints",
    tries=("matching method weight",),
)
def rebasin_width(seeds: Sequence[int]) -> Iterator[Finding]:
    """Train pairs of MNIST perceptrons of three widths for as many steps, match them by weights, and walk the line."""
    examples = mnist()
    matched = {width: _barriers(width, examples, seeds) for width in WIDTHS}
    for narrow, wide in pairwise(WIDTHS):
        yield below(f"accuracy barrier at width {wide}", matched[wide][0], matched[narrow][0], f"at width {narrow}")
    wide = WIDTHS[-1]
    yield below(f"accuracy barrier at width {wide}", matched[wide][0], matched[wide][1], "unmatched")


def _barriers(width: int, examples: Examples, seeds: Sequence[int]) -> tuple[list[float], list[float]]:
    """Of matched and of unmatched pairs."""
    bench = Bench.of(SHAPE, width, examples)
    networks = train(ARCHITECTURES[SHAPE], width, examples, [2 * seed + one for seed in seeds for one in (0, 1)], STEPS)
    pairs = list(zip(networks[::2], networks[1::2], strict=True))
    found = [
        [barrier(a, bench.align(way, a, b), bench.test, POINTS).barriers["accuracy"].interpolated for a, b in pairs]
        for way in ("weight", "none")
    ]
    return found[0], found[1]
