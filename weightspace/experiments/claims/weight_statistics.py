"""That statistics of the weights alone rank networks by their accuracy."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, above, at_least, claim
from weightspace.experiments.perceptron_zoo import boosted, perceptrons, ridge
from weightspace.metanets.heads import kendall


@claim(
    "weight-statistics",
    statement="Gradient-boosted trees on simple statistics of the weights predict the test accuracy of networks with an R2 above .98, without data.",
    source="Unterthiner et al., Predicting Neural Network Accuracy from Weights, arXiv:2002.11448, abstract",
    topic="metanets",
)
def weight_statistics(seeds: Sequence[int]) -> Iterator[Finding]:
    """Predict accuracies of perceptrons of one shape with varied hyperparameters; beside it ridge regression of the raw weights."""
    explained, taus, raw = [], [], []
    for seed in seeds:
        parts = perceptrons(seed)
        truth, told = parts[2].targets.double(), boosted(parts, seed)
        explained.append(float(1 - (told - truth).square().mean() / truth.var(correction=0)))
        taus.append(kendall(told, truth))
        raw.append(kendall(ridge(parts), truth))
    yield at_least("R2 of the test accuracy, by statistics", explained, 0.98)
    yield above("Kendall's tau, by statistics", taus, raw, "raw weights, ridge regression")
