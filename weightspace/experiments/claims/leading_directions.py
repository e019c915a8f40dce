"""That weight matching agrees above all the directions of the largest singular values."""

from collections.abc import Iterator, Sequence

import torch

from weightspace.analysis.connectivity import null_alignment, singular_alignment
from weightspace.experiments.barriers import Bench
from weightspace.experiments.claim import Finding, above, at_most, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train

SHAPE, WIDTH, STEPS, GAMMA = "mnist1d-mlp", 128, 1000, 0.3
UNRELATED = 0.05


@claim(
    "leading-directions",
    statement="Permutations found by weight matching align the singular vectors of the largest singular values, which is why the barrier falls.",
    source="Ito et al., Analysis of linear mode connectivity via permutation-based weight matching, arXiv:2402.04051, section 4",
    topic="connectivity",
    seeds=5,
    tries=("matching method weight",),
)
def leading_directions(seeds: Sequence[int]) -> Iterator[Finding]:
    """Measure R, the agreement of singular vectors, before and after matching, of leading values and of all, with random networks as the null."""
    examples = mnist1d()
    bench = Bench.of(SHAPE, WIDTH, examples)
    networks = train(ARCHITECTURES[SHAPE], WIDTH, examples, [2 * seed + one for seed in seeds for one in (0, 1)], STEPS)
    before, leading, every, chance = [], [], [], []
    for seed, a, b in zip(seeds, networks[::2], networks[1::2], strict=True):
        before.append(abs(singular_alignment(a, b, (GAMMA,)).totals[0].value))
        of_all, of_leading = (one.value for one in singular_alignment(a, bench.align("weight", a, b), (0.0, GAMMA)).totals)
        leading.append(of_leading)
        every.append(of_all)
        null = null_alignment(
            a,
            b,
            lambda x, y: bench.align("weight", dict(x), dict(y)),
            (GAMMA,),
            generator=torch.Generator().manual_seed(1000 + seed),
            nulls=1,
        )
        chance.append(null[GAMMA][0])
    yield at_most("R of leading directions, unmatched", before, UNRELATED)
    yield above("R of leading directions, matched", leading, chance, "random networks of the same singular values, matched")
    yield above("R of leading directions, matched", leading, every, "R of all directions")
