"""That over the depths of one family of published networks, measures of spectra go with test accuracy."""

from collections.abc import Iterator, Sequence

import numpy as np
from scipy import stats
from torch import nn

from weightspace.analysis.spectra import spectra
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError
from weightspace.experiments.claim import Finding, at_least, claim
from weightspace.experiments.data import real_checkpoints
from weightspace.experiments.real_networks import DEPTHS, blank, network

ERRORS = {20: 8.27, 32: 7.37, 44: 6.90, 56: 6.61}
"""Test errors on CIFAR-10 in percent, as their authors report them."""
MEASURES = ("log_spectral_norm", "alpha_hat", "alpha")


@claim(
    "depth-series",
    statement="Over a series of architectures of one family, mean log spectral norm and weighted alpha fall with the test error, so that they rank its members.",
    source="Martin, Peng and Mahoney, Predicting trends in the quality of state-of-the-art neural networks, arXiv:2002.06716, section 4 and table 1",
    topic="weights",
    needs="real checkpoints",
    seeds=1,
    tries=("measure alpha", "measure alpha_hat", "measure log_spectral_norm"),
)
def depth_series(seeds: Sequence[int]) -> Iterator[Finding]:
    """Rank four published residual networks of CIFAR-10; the same networks before any training, which know only their depth, are the null."""
    folder = real_checkpoints()
    if not (folder / "akamaster").is_dir():
        raise AnalysisError(f"expected networks in {folder / 'akamaster'}, found none; set WEIGHTSPACE_REAL_CHECKPOINTS to where they are")
    families = [[network(folder, "depths", depth) for depth in DEPTHS], [blank("depths", depth) for depth in DEPTHS]]
    for name in MEASURES:
        trained, null = (_correlation([_mean(one, name) for one in family]) for family in families)
        yield at_least(f"rank correlation of mean {name} with the test error", [trained], 0.8, baseline=[null], against="untrained")


def _correlation(values: Sequence[float]) -> float:
    """Rounded: with four networks it has few values, and the bar is one of them."""
    return round(float(stats.spearmanr(values, [ERRORS[depth] for depth in DEPTHS]).statistic), 6)


def _mean(module: nn.Module, name: str) -> float:
    table = spectra(Checkpoint.of(module.state_dict()), [name]).table
    return float(np.nanmean([float(row[name]) for row in table if row[name] is not None]))
