"""That a plain hypernetwork makes weights in proportion to its input, and the magnitude-invariant one does not."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from weightspace.analysis.generation import Target
from weightspace.analysis.generation.fitting import make
from weightspace.experiments.claim import Finding, at_least, at_most, claim
from weightspace.experiments.mip import VARIANTS, perceptron

CONDITIONS = torch.linspace(0.05, 1, 20)[:, None]


@claim(
    "magnitude-proportionality",
    statement="The scale of what a plain hypernetwork makes is proportional to its input; magnitude-invariant parametrisation takes that away.",
    source="Gonzalez Ortiz et al., Magnitude Invariant Parametrizations Improve Hypernetwork Learning, arXiv:2304.07645, abstract",
    topic="generation",
)
def magnitude_proportionality(seeds: Sequence[int]) -> Iterator[Finding]:
    """Draw the weights that untrained hypernetworks make of conditions from 0.05 to 1, and look at their standard deviation."""
    plain, ours = ([_scales(variant, seed) for seed in seeds] for variant in ("default", "MIP"))
    slopes = [float(np.polyfit(CONDITIONS[:, 0].log(), one.log(), 1)[0]) for one in plain]
    yield at_least("correlation of input and scale, plain hypernetwork", [_correlated(one) for one in plain], 0.99)
    yield at_most("distance of the exponent of scale by input from 1, plain hypernetwork", [abs(one - 1) for one in slopes], 0.1)
    ranges = [float((one.max() - one.min()) / one.mean()) for one in ours]
    beside = [float((one.max() - one.min()) / one.mean()) for one in plain]
    yield at_most("range of the scale over its mean, magnitude-invariant", ranges, 0.1, baseline=beside, against="plain hypernetwork")


@torch.no_grad()
def _scales(variant: str, seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        target = Target.of_module(perceptron(10))
        made = make("mip", target, (1,), dict(VARIANTS[variant]))
    return target.flat(made(CONDITIONS)).double().std(1)


def _correlated(scales: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([CONDITIONS[:, 0].double(), scales]))[0, 1])
