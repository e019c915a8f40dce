"""That spectra of untrained weights are those of noise, and training makes eigenvalues beyond its edge."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from weightspace.analysis.spectra import spectra
from weightspace.checkpoint import Checkpoint
from weightspace.experiments.claim import Finding, above, at_least, at_most, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train

SHAPE, WIDTH, STEPS = "mnist1d-mlp", 256, 600
LAYERS = ("fc2.weight", "fc3.weight")


@claim(
    "noise-edge",
    statement="At initialisation the eigenvalues of weight matrices follow Marchenko and Pastur's law; after training some stand out of it, and tails are heavier.",
    source="Martin and Mahoney, Implicit self-regularization in deep neural networks, arXiv:1810.01075, sections 3 to 5",
    topic="weights",
    tries=("measure marchenko_pastur", "measure alpha"),
)
def noise_edge(seeds: Sequence[int]) -> Iterator[Finding]:
    """Count eigenvalues beyond the edge of noise in the square layers of MNIST-1D perceptrons, before and after training."""
    trained = train(ARCHITECTURES[SHAPE], WIDTH, mnist1d(), seeds, STEPS)
    blank = []
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            blank.append(ARCHITECTURES[SHAPE](WIDTH).state_dict())
    before, after = ([_measured(one) for one in networks] for networks in (blank, trained))
    spikes = [one["spikes"] for one in before]
    yield at_most("eigenvalues beyond the edge of noise a layer, untrained", spikes, 0.5)
    yield at_least("the same, trained", [one["spikes"] for one in after], 1.0, baseline=spikes, against="untrained")
    yield above("largest eigenvalue over the edge", [one["top"] for one in after], [one["top"] for one in before], "untrained")


def _measured(weights: Mapping[str, Tensor]) -> dict[str, float]:
    rows = spectra(Checkpoint.of(dict(weights)), ["marchenko_pastur", "log_spectral_norm"], LAYERS).table
    spikes = [float(row["marchenko_pastur.spikes"]) for row in rows]
    tops = [10 ** float(row["log_spectral_norm"]) / float(row["marchenko_pastur.edge"]) for row in rows]
    return {"spikes": sum(spikes) / len(rows), "top": sum(tops) / len(rows)}
