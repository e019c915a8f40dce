"""That one hypernetwork makes a block at widths that it never saw, and smoothing is what carries it."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from weightspace.analysis.generation import fit
from weightspace.experiments.claim import Finding, above, at_most, claim
from weightspace.experiments.neumeta import SETTINGS, block, built, drawn, judge, material, pruned

FULL, SMALLEST = 32, 8
UNSEEN = (9, 13, 17, 21, 25)
WIDTHS = sorted({SMALLEST, FULL, *(width + by for width in UNSEEN for by in (-1, 0, 1))})
STEPS = 600


@claim(
    "neumeta-widths",
    statement="One hypernetwork makes a block at seen and unseen widths, at 75 % compression as good as the full network, and smoothing by permutation is needed.",
    source="Yang and Wang, Neural Metamorphosis, arXiv:2410.11878, abstract",
    topic="generation",
)
def neumeta_widths(seeds: Sequence[int]) -> Iterator[Finding]:
    """Fit the field of one residual block of hidden width 32; even widths from 8 are learned, odd ones never seen. Pruning stands beside it."""
    ours, rough = ([_accuracies(seed, smooth=smooth) for seed in seeds] for smooth in (True, False))
    cut = [_pruned(seed) for seed in seeds]
    full = [_full(seed) for seed in seeds]
    apart = [100 * (one - own["8"]) for one, own in zip(full, ours, strict=True)]
    yield at_most("full network less width 8, points", apart, 2.0)
    gaps = [100 * max((own[str(w - 1)] + own[str(w + 1)]) / 2 - own[str(w)] for w in UNSEEN) for own in ours]
    yield at_most("the worst unseen width less its neighbours, points", gaps, 3.0)
    means, beside = ([sum(own[str(w)] for w in UNSEEN) / len(UNSEEN) for own in each] for each in (ours, cut))
    yield above("accuracy at unseen widths", means, beside, "the full network pruned")
    yield above("accuracy at width 8", [own["8"] for own in ours], [own["8"] for own in rough], "without smoothing")


@cache
def _network(seed: int) -> nn.Module:
    return built(block, FULL, seed)


def _full(seed: int) -> float:
    network = _network(seed)
    return judge(network).evaluate(network.state_dict())["accuracy"]


def _pruned(seed: int) -> dict[str, float]:
    network = _network(seed)
    found: dict[str, float] = pruned(material(network), ["block.0"], judge(network), WIDTHS)["accuracy"]
    return found


def _accuracies(seed: int, *, smooth: bool) -> dict[str, float]:
    network = _network(seed)
    settings: dict[str, Any] = {**SETTINGS["block"], "steps": STEPS, "smooth": smooth}
    fitted = fit("neumeta", material(network), generator=torch.Generator().manual_seed(seed), **settings)
    found: dict[str, float] = drawn(fitted, judge(network), WIDTHS)["accuracy"]
    return found
