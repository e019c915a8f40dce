"""That the mean exponent of the layers' spectral tails tells how well networks of one architecture generalise."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import stats
from torch import Tensor

from weightspace.analysis.spectra import spectra
from weightspace.checkpoint import Checkpoint
from weightspace.experiments.claim import Finding, at_most, below, claim
from weightspace.experiments.data import Examples, mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train
from weightspace.task import Task

SHAPE, WIDTH, EACH = "mnist1d-mlp", 128, 3
SETTINGS = ((1e-4, 300), (3e-4, 300), (1e-3, 100), (1e-3, 300), (1e-3, 900), (3e-3, 300), (3e-3, 900))
MEASURES = ("alpha", "log_spectral_norm", "log_norm")


@claim(
    "tail-exponents",
    statement="Without any data, the power-law exponent alpha of a network's layers ranks networks by test accuracy, smaller being better, and does so better than norms do.",
    source="Martin, Peng and Mahoney, Predicting trends in the quality of state-of-the-art neural networks, arXiv:2002.06716, section 4",
    topic="weights",
    tries=("measure alpha", "measure log_spectral_norm", "measure log_norm"),
)
def tail_exponents(seeds: Sequence[int]) -> Iterator[Finding]:
    """Rank MNIST-1D perceptrons of other rates and lengths of training; correlations are by rank, one for each set of seeds."""
    examples = mnist1d()
    found = [_correlations(examples, [EACH * seed + one for one in range(EACH)]) for seed in seeds]
    alpha = [one["alpha"] for one in found]
    yield at_most("rank correlation of mean alpha with test accuracy", alpha, -0.5)
    for other, name in (("log_spectral_norm", "spectral norm"), ("log_norm", "Frobenius norm")):
        yield below("the same", alpha, [-abs(one[other]) for one in found], f"of the log {name}, its sign left free")


def _correlations(examples: Examples, seeds: Sequence[int]) -> dict[str, float]:
    module = ARCHITECTURES[SHAPE](WIDTH).eval()
    task = Task.classification(module, examples.test, examples.test_classes, batch_size=5000)
    networks = [one for rate, steps in SETTINGS for one in train(ARCHITECTURES[SHAPE], WIDTH, examples, seeds, steps, rate)]
    accuracies = [task.evaluate(one)["accuracy"] for one in networks]
    rows = [_means(one) for one in networks]
    return {name: float(stats.spearmanr([row[name] for row in rows], accuracies).statistic) for name in MEASURES}


def _means(weights: Mapping[str, Tensor]) -> dict[str, float]:
    table = spectra(Checkpoint.of(dict(weights)), MEASURES, ["fc*"]).table
    return {name: float(np.nanmean([float(row[name]) for row in table])) for name in MEASURES}
