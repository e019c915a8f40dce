"""How well stitches fit: their error on examples that they were not found on, and what they rest on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.equations import Equations
from weightspace.analysis.stitching.fitting import Bias, Pair, expect_bias, gathered
from weightspace.analysis.stitching.layer import Stitch, stitches
from weightspace.task import Task, halves


@dataclass(frozen=True)
class Fit:
    """A stitch and how well it fits.

    Attributes:
        stitch: found on one half of the examples.
        error: on the other half, what is missed of what is wanted as a share of how that differs between examples, `1 - R^2`; above 1 is
            worse than its mean at each place, NaN where it does not differ.
        rank: numerical rank of what is taken, about its means.
        samples: that the stitch was found on: places, of all examples.
    """

    stitch: Stitch = field(repr=False)
    error: float
    rank: int
    samples: int


def fit_error(
    front: Chain,
    end: Chain,
    task: Task,
    pairs: Iterable[Pair],
    kind: str = "linear",
    *,
    bias: Bias = "places",
    generator: torch.Generator | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[Pair, Fit]:
    """Find stitches on every other example of a task, and measure what they miss on the rest; see `fit_stitches`.

    Both halves are summed as they come, and the error follows from their second moments.

    Raises:
        TaskError: a batch has one example alone.
        AnalysisError: see `fit_stitches`.
        UnknownNameError: see `fit_stitches`.
    """
    expect_bias(bias)
    pairs, found = list(pairs), stitches[kind]
    shown, held = (gathered(front, end, half, pairs) for half in halves(task))
    out = {}
    for pair, one in shown.items():
        stitch = one.stitch(found, bias=bias, generator=generator, settings=settings or {})
        judge = Equations.of(held[pair].moments, held[pair].places)
        error = judge.error(stitch.weight.detach().double(), stitch.bias.detach().double())
        taken = Equations.of(one.moments, one.places if bias == "places" else None)
        out[pair] = Fit(stitch, error, taken.rank, taken.count)
    return out


__all__ = ["Fit", "fit_error"]
