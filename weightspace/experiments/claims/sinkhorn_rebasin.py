"""That permutations learned by gradients through Sinkhorn iterations leave a lower barrier than weight matching."""

from collections.abc import Iterator, Sequence

import torch

from weightspace.analysis.connectivity import barrier
from weightspace.analysis.matching import match
from weightspace.experiments.barriers import POINTS, Bench
from weightspace.experiments.claim import Finding, at_least, below, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train
from weightspace.symmetry import act

SHAPE, WIDTH, STEPS = "mnist1d-mlp", 64, 1000


@claim(
    "sinkhorn-rebasin",
    statement="Relaxed by Sinkhorn iterations, permutations can be learned by gradient descent: planted ones are found, and the loss on the path gets lower than by weight matching.",
    source="Peña et al., Re-basin via implicit Sinkhorn differentiation, arXiv:2212.12042, sections 4.1 and 4.2",
    topic="matching",
    tries=("matching method sinkhorn", "matching method weight"),
)
def sinkhorn_rebasin(seeds: Sequence[int]) -> Iterator[Finding]:
    """Plant permutations in MNIST-1D perceptrons, and match pairs of other seeds by the loss on the path between them."""
    examples = mnist1d()
    bench = Bench.of(SHAPE, WIDTH, examples)
    networks = train(ARCHITECTURES[SHAPE], WIDTH, examples, [2 * seed + one for seed in seeds for one in (0, 1)], STEPS)
    planted: list[float] = []
    barriers: dict[str, list[float]] = {"sinkhorn": [], "weight": [], "none": []}
    for seed, a, b in zip(seeds, networks[::2], networks[1::2], strict=True):
        generator = torch.Generator().manual_seed(seed)
        moved = act(bench.spec.random(generator, discrete=True), a)
        planted.append(match(a, moved, bench.spec, "sinkhorn", generator=generator).cosine_after)
        learned = match(a, b, bench.spec, "sinkhorn", generator=generator, task=bench.train, objective="path", start="weight")
        for way, one in {"sinkhorn": act(learned.element, b), "weight": bench.align("weight", a, b), "none": b}.items():
            barriers[way].append(barrier(a, one, bench.test, POINTS).barriers["accuracy"].interpolated)
    yield at_least("cosine with a permuted copy, matched by weights through Sinkhorn", planted, 0.999)
    yield below("accuracy barrier, by the loss on the path", barriers["sinkhorn"], barriers["none"], "unmatched")
    yield below("the same", barriers["sinkhorn"], barriers["weight"], "matched by weights")
