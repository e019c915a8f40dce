"""That wide networks are connected without any permutation once the softmax temperature on the way is calibrated."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.barriers import Bench
from weightspace.experiments.claim import Finding, at_most, below, claim
from weightspace.experiments.data import mnist
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train

SHAPE, WIDTHS, STEPS = "mnist-mlp", (32, 512), 250
ZERO = 0.05
"""Nats that count as no barrier."""


@claim(
    "calibrated-width",
    statement="Wide networks are linearly connected with no permutation at all once each network on the way has its softmax temperature calibrated.",
    source="Ito et al., arXiv:2510.08023, abstract",
    topic="connectivity",
    needs="real checkpoints",
)
def calibrated_width(seeds: Sequence[int]) -> Iterator[Finding]:
    """Walk the line between unmatched MNIST perceptrons of two widths, the temperature set at every point."""
    examples = mnist()
    found = {}
    for width in WIDTHS:
        bench = Bench.of(SHAPE, width, examples)
        networks = train(ARCHITECTURES[SHAPE], width, examples, [2 * seed + one for seed in seeds for one in (0, 1)], STEPS)
        curves = [bench.between(a, b, None) for a, b in zip(networks[::2], networks[1::2], strict=True)]
        found[width] = {name: [curve.barriers[name].interpolated for curve in curves] for name in ("loss", "calibrated_loss")}
    narrow, wide = WIDTHS
    own = found[wide]["calibrated_loss"]
    yield at_most(f"calibrated loss barrier at width {wide}, unmatched", own, ZERO, baseline=found[wide]["loss"], against="not calibrated")
    yield below("the same", own, found[narrow]["calibrated_loss"], f"at width {narrow}")
