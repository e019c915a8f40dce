"""That independent minima are joined by a simple curve of low loss where the straight line has a barrier."""

from collections.abc import Iterator, Sequence

import torch

from weightspace.analysis.connectivity import barrier, bezier
from weightspace.analysis.connectivity.curve import barrier_of
from weightspace.analysis.connectivity.paths import quadratic
from weightspace.experiments.barriers import POINTS, Bench
from weightspace.experiments.claim import Finding, at_most, below, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train

SHAPE, WIDTH, STEPS, CURVE_STEPS = "mnist1d-mlp", 128, 1000, 600
LEFT = 0.1
"""Of the line's barrier: what may be left along the curve to count as joined."""


@claim(
    "curved-paths",
    statement="Minima of different seeds are connected by a quadratic Bezier curve along which loss and accuracy stay nearly constant.",
    source="Garipov et al., Loss surfaces, mode connectivity, and fast ensembling of DNNs, arXiv:1802.10026, sections 3 and 4",
    topic="connectivity",
)
def curved_paths(seeds: Sequence[int]) -> Iterator[Finding]:
    """Train the control point on training examples of MNIST-1D, and measure curve and line on test examples."""
    examples = mnist1d()
    bench = Bench.of(SHAPE, WIDTH, examples)
    networks = train(ARCHITECTURES[SHAPE], WIDTH, examples, [2 * seed + one for seed in seeds for one in (0, 1)], STEPS)
    left: dict[str, list[float]] = {"loss": [], "accuracy": []}
    ends: dict[str, list[float]] = {"curve": [], "line": []}
    for seed, a, b in zip(seeds, networks[::2], networks[1::2], strict=True):
        generator = torch.Generator().manual_seed(seed)
        control = bezier(a, b, bench.train, generator=generator, steps=CURVE_STEPS, learning_rate=3e-3, points=2).control
        path = quadratic(a, control, b)
        along = [bench.test.evaluate(path(at / (POINTS - 1))) for at in range(POINTS)]
        line = barrier(a, b, bench.test, POINTS)
        for quantity, own in left.items():
            values = [point[quantity] for point in along]
            rise = barrier_of(quantity, line.ts, values, quantity == "accuracy").interpolated
            own.append(rise / line.barriers[quantity].interpolated)
        ends["curve"].append(rise)
        ends["line"].append(line.barriers["accuracy"].interpolated)
    for quantity, own in left.items():
        yield at_most(f"{quantity} barrier of the curve over that of the line", own, LEFT)
    yield below("accuracy barrier of the curve", ends["curve"], ends["line"], "of the line")
