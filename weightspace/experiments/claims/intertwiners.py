"""That an activation alone decides which continuous symmetries a hidden layer has: a scale a unit for ReLU, and none for tanh or GELU."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

import weightspace as ws
from weightspace.experiments.claim import Finding, at_least, at_most, claim
from weightspace.proof import certificate

WIDTHS = (7, 6)


@claim(
    "intertwiners",
    statement="Besides permutations, a ReLU layer's symmetries are one positive scale a unit, and nothing else; tanh and GELU layers have no continuous ones.",
    source="Godfrey et al., On the symmetries of deep learning models and their internal representations, arXiv:2205.14258, theorem 3.3 and table 1",
    topic="symmetry",
)
def intertwiners(seeds: Sequence[int]) -> Iterator[Finding]:
    """Count the directions in weight space that move no output, and compare with what tracing declares."""
    units = float(sum(WIDTHS))
    found = {kind: [_missing(kind, seed) for seed in seeds] for kind in (nn.ReLU, nn.Tanh, nn.GELU)}
    relu = [nullity for nullity, _ in found[nn.ReLU]]
    yield at_least(f"free directions of a ReLU network with {units:g} hidden units", relu, units)
    yield at_most("the same", relu, units)
    yield at_most("free directions of tanh and GELU networks", [n for kind in (nn.Tanh, nn.GELU) for n, _ in found[kind]], 0.0)
    yield at_most("directions that tracing does not declare, over all three", [m for kind in found for _, m in found[kind]], 0.0)


def _missing(activation: Callable[[], nn.Module], seed: int) -> tuple[float, float]:
    """The dimension of what moves no output, and what of it the traced spec lacks."""
    module = nn.Sequential(nn.Linear(5, WIDTHS[0]), activation(), nn.Linear(*WIDTHS), activation(), nn.Linear(WIDTHS[1], 3))
    inputs = torch.randn(16, 5, generator=torch.Generator().manual_seed(seed))
    made = certificate(ws.trace(module, inputs), module, inputs, generator=torch.Generator().manual_seed(seed))
    return float(made.nullity), float(abs(made.missing))
