"""That matching all layers at once by Frank-Wolfe climbs higher than matching them one after another."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from weightspace.analysis.connectivity import barrier
from weightspace.analysis.matching import match
from weightspace.experiments.barriers import POINTS, Bench
from weightspace.experiments.claim import Finding, above, below, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train
from weightspace.symmetry import act

SHAPE, WIDTH, STEPS = "mnist1d-mlp", 128, 1000
METHODS: dict[str, dict[str, Any]] = {"frank_wolfe": {}, "weight": {"shakes": 0}}


@claim(
    "all-layers-at-once",
    statement="Frank-Wolfe on all permutations at once finds matches of a larger objective and a lower barrier than Git Re-Basin, which goes layer by layer in a random order.",
    source="Crisostomi et al., C2M3, arXiv:2405.17897, section 3 and appendix",
    topic="matching",
    seeds=5,
    tries=("matching method frank_wolfe", "matching method weight"),
)
def all_layers_at_once(seeds: Sequence[int]) -> Iterator[Finding]:
    """Match pairs of MNIST-1D perceptrons; Git Re-Basin is one search from the identity in an order drawn from the seed."""
    examples = mnist1d()
    bench = Bench.of(SHAPE, WIDTH, examples)
    networks = train(ARCHITECTURES[SHAPE], WIDTH, examples, [2 * seed + one for seed in seeds for one in (0, 1)], STEPS)
    objectives: dict[str, list[float]] = {"frank_wolfe": [], "weight": []}
    barriers: dict[str, list[float]] = {"frank_wolfe": [], "weight": []}
    for seed, a, b in zip(seeds, networks[::2], networks[1::2], strict=True):
        for method, options in METHODS.items():
            found = match(a, b, bench.spec, method, generator=torch.Generator().manual_seed(seed), **options)
            objectives[method].append(found.cosine_after)
            barriers[method].append(barrier(a, act(found.element, b), bench.test, POINTS).barriers["accuracy"].interpolated)
    yield above("cosine of the matched weights", objectives["frank_wolfe"], objectives["weight"], "layer by layer")
    yield below("accuracy barrier", barriers["frank_wolfe"], barriers["weight"], "layer by layer")
