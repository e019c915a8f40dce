"""That usual initialisations of a hypernetwork give the network that it makes weights of a wrong scale."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from weightspace.analysis.generation import Material, Target, Wish, sample
from weightspace.analysis.generation.fitting import make
from weightspace.analysis.generation.hypernetworks.hypernetwork import Hypernetwork
from weightspace.experiments.claim import Finding, at_least, at_most, below, claim
from weightspace.experiments.continual import PAIRS, module, tasks

STEPS = 100


@claim(
    "hypernetwork-start",
    statement="He initialisation of a hypernetwork makes weights of a wrong scale; one that is derived from the scale of what is made learns faster.",
    source="Chang et al., Principled Weight Initialization for Hypernetworks, arXiv:2312.08399, abstract",
    topic="generation",
)
def hypernetwork_start(seeds: Sequence[int]) -> Iterator[Finding]:
    """Compare variances of generated matrices with He's, and losses after some steps of Adam on five tasks together."""
    ours, usual = ([_made(seed, he=he) for seed in seeds] for he in (False, True))
    off, other = ([_off(one) for one in both] for both in (ours, usual))
    yield at_most("factor by which the variance of generated matrices is off", off, 2.0, baseline=other, against="He initialisation")
    yield at_least("the same of He initialisation", other, 2.0)
    losses, beside = ([_learned(one, seed) for one, seed in zip(both, seeds, strict=True)] for both in (ours, usual))
    yield below(f"mean training loss after {STEPS} steps", losses, beside, "He initialisation")


def _made(seed: int, *, he: bool) -> Hypernetwork:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = make("mlp", Target.of_module(module()), (), {"steps": STEPS, "together": PAIRS})
        assert isinstance(made, Hypernetwork)
        made.code.know(torch.arange(PAIRS))
        for part in made.modules() if he else ():
            if isinstance(part, nn.Linear):
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
                nn.init.zeros_(part.bias)
    return made


@torch.no_grad()
def _off(made: Hypernetwork) -> float:
    """The geometric mean over matrices, whichever way it is off."""
    drawn = made(torch.arange(PAIRS))
    ratios = [math.log(float(one.var()) * one[0, 0].numel() / 2) for one in drawn.values() if one.ndim > 2]
    return math.exp(sum(map(abs, ratios)) / len(ratios))


def _learned(made: Hypernetwork, seed: int) -> float:
    """Mean loss of all tasks on what they were learned from."""
    conditions, learned = torch.arange(PAIRS), tasks()[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # embeddings are drawn from torch's own generator
        generator = torch.Generator().manual_seed(seed)
        made.learn(Material(made.target, tasks=learned, conditions=conditions), generator=generator, progress=lambda done, total: None)
    drawn = sample(made, PAIRS, Wish(condition=conditions))
    rows = [made.target.whole({name: tensor[at] for name, tensor in drawn.items()}) for at in range(PAIRS)]
    return sum(task.evaluate(row)["loss"] for task, row in zip(learned, rows, strict=True)) / PAIRS
