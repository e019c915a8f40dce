"""That batch norms of an averaged network must be measured anew, and that this is nearly all that REPAIR does for them."""

from collections.abc import Iterator, Sequence

from weightspace.analysis.connectivity import barrier
from weightspace.experiments.barriers import POINTS, Bench, Mend
from weightspace.experiments.claim import Finding, at_least, below, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train

SHAPE, WIDTH, STEPS = "mnist1d-cnn-bn", 16, 1000
MENDS: tuple[Mend, ...] = (None, "reset", "repair")


@claim(
    "norm-reset",
    statement="Averaged networks with batch norms need their running statistics measured anew; that alone gives nearly all that REPAIR gives.",
    source="Jordan et al., REPAIR, arXiv:2211.08403, section 3.2",
    topic="connectivity",
)
def norm_reset(seeds: Sequence[int]) -> Iterator[Finding]:
    """Match pairs of normed convolutions on MNIST-1D by activations, and walk the line with each mend."""
    examples = mnist1d()
    bench = Bench.of(SHAPE, WIDTH, examples)
    networks = train(ARCHITECTURES[SHAPE], WIDTH, examples, [2 * seed + one for seed in seeds for one in (0, 1)], STEPS)
    found: dict[Mend, list[float]] = {mend: [] for mend in MENDS}
    for a, b in zip(networks[::2], networks[1::2], strict=True):
        moved = bench.align("activation", a, b)
        for mend, own in found.items():
            own.append(barrier(a, moved, bench.test, POINTS, repair=mend, statistics=bench.train).barriers["accuracy"].interpolated)
    yield below("accuracy barrier, statistics measured anew", found["reset"], found[None], "statistics averaged")
    gained = [(plain - reset) / (plain - mended) for plain, reset, mended in zip(*found.values(), strict=True)]
    yield at_least("share of REPAIR's gain that new statistics give", gained, 0.9)
