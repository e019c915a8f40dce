"""That diffusion makes networks as good as those that it learned from, or better."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from weightspace.experiments.claim import Finding, above, at_least, claim
from weightspace.experiments.distribution import TEST, USUAL, measure


@claim(
    "diffusion-quality",
    statement="Networks made by diffusion over checkpoints of one run are comparable to them or better.",
    source="Wang et al., Neural Network Diffusion, arXiv:2402.13144, abstract",
    topic="generation",
)
def diffusion_quality(seeds: Sequence[int]) -> Iterator[Finding]:
    """Learn 200 checkpoints of one run of a perceptron, draw 100; beside the zoo's networks, its best one, and the mean of all."""
    ours, known, best, top, mean = [], [], [], [], []
    for seed in seeds:
        [zoo] = rows("zoo", seed)
        drawn = next(row for row in rows("pdiff", seed) if row["setting"] == USUAL["pdiff"])
        averaged = next(row for row in rows("mean of k", seed) if row["setting"] == "of=0")
        ours.append(100 * drawn["halves"][TEST]["accuracy"])
        best.append(100 * drawn["halves"][TEST]["best"])
        known.append(100 * zoo["halves"][TEST]["accuracy"])
        top.append(100 * zoo["halves"][TEST]["best"])
        mean.append(100 * averaged["halves"][TEST]["accuracy"])
    lead = [one - other for one, other in zip(ours, known, strict=True)]
    yield at_least("mean accuracy of drawn networks less that of the checkpoints, points", lead, 0.0)
    yield above("accuracy of the best drawn network, percent", best, top, "the best checkpoint")
    yield above("mean accuracy of drawn networks, percent", ours, mean, "the mean of all checkpoints")


@cache
def rows(method: str, seed: int) -> Sequence[Mapping[str, Any]]:
    """What was measured of a method at each of its settings, on checkpoints of one run."""
    return tuple(measure("one run", method, seed))
