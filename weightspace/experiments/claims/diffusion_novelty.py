"""That generative models of weights are no better than noise and averages at equal novelty."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, at_most, claim
from weightspace.experiments.claims.diffusion_quality import rows
from weightspace.experiments.distribution import TEST, USUAL, VALIDATION, at_novelty

BASELINES = ("noise", "mean of k", "mean plus Gaussian", "network towards the mean")


@claim(
    "diffusion-novelty",
    statement="Diffusion over weights memorises: what it makes is nearer to a checkpoint than checkpoints are to each other, and noise or averages do as well.",
    source="Zeng et al., Generative Modeling of Weights: Generalization or Memorization?, arXiv:2506.07998, abstract",
    topic="generation",
)
def diffusion_novelty(seeds: Sequence[int]) -> Iterator[Finding]:
    """At the novelty that checkpoints of one run have among themselves: accuracy of diffusion less that of the best baseline, settings chosen on other signals."""
    less_noise, less_best, nearer = [], [], []
    for seed in seeds:
        [zoo] = rows("zoo", seed)
        level = zoo["halves"][VALIDATION]["iou"]
        ours, noise = (at_novelty(rows(name, seed), level) for name in ("pdiff", "noise"))
        best = at_novelty([row for name in BASELINES for row in rows(name, seed)], level)
        assert ours is not None and noise is not None and best is not None
        less_noise.append(100 * (ours[0] - noise[0]))
        less_best.append(100 * (ours[0] - best[0]))
        usual = next(row for row in rows("pdiff", seed) if row["setting"] == USUAL["pdiff"])
        nearer.append(100 * (zoo["halves"][TEST]["iou"] - usual["halves"][TEST]["iou"]))
    yield at_most("accuracy of diffusion less noise on checkpoints, points", less_noise, 0.5)
    yield at_most("accuracy of diffusion less the best of noise, means and Gaussians, points", less_best, 0.5)
    yield at_most("likeness of checkpoints to each other less that of drawn networks to them, points of IoU", nearer, 0.0)
