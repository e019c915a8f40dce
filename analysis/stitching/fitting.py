"""Fitting stitches: what crosses at the cuts of two chains, gathered over a task's data, and the maps that follow from it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import tee
from typing import Any, Literal

import torch
from torch import Tensor

from weightspace.analysis.moments import Moments
from weightspace.analysis.stitching.bridge import Bridge
from weightspace.analysis.stitching.chain import Chain, in_eval
from weightspace.analysis.stitching.equations import Equations, Places
from weightspace.analysis.stitching.layer import Kind, Stitch, stitches
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task, batch_inputs, moved
from weightspace.tracing.cutting import Cut

Pair = tuple[int, int]
"""Index of a cut of the front, of a cut of the end; -1 is the input."""

MOST_UNITS = 2**14
"""Units on one side of a stitch, of which second moments take 8 bytes for each pair."""

Bias = Literal["units", "places"]
BIASES: tuple[Bias, ...] = ("units", "places")
"""What a stitch has a bias for: each unit, or each unit at each place of the target."""


@dataclass(frozen=True)
class Gathered:
    """What has been summed between two cuts.

    Attributes:
        bridge: between them.
        moments: of all samples: places of the target, of all examples.
        places: sums at each place.
        dtype: of what crosses at the target.
    """

    bridge: Bridge
    moments: Moments = field(default_factory=Moments)
    places: Places = field(default_factory=Places)
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        wide = max(self.bridge.units)
        if wide > MOST_UNITS:
            source, target = self.bridge.source, self.bridge.target
            raise AnalysisError(
                f"a stitch from '{source.name}' {source.shape} to '{target.name}' {target.shape} has {wide:,} units on one side, expected "
                f"{MOST_UNITS:,} at most; cut where there are fewer places"
            )

    def add(self, left: Tensor, right: Tensor) -> None:
        """Take in what crosses at both in a batch."""
        taken, wanted = self.bridge.rows(left).to(right.device), self.bridge.target_rows(right)
        self.moments.add(taken.flatten(0, 1), wanted.flatten(0, 1))
        self.places.add(taken, wanted)

    def stitch(self, kind: Kind, *, bias: Bias, generator: torch.Generator | None, settings: Mapping[str, Any]) -> Stitch:
        """Find one from what has been summed."""
        equations = Equations.of(self.moments, self.places if bias == "places" else None)
        return Stitch(self.bridge, kind(equations, generator=generator, **settings)).to(self.dtype)


def crossing(chain: Chain, batches: Iterable[Any], cuts: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Iterate over what crosses at cuts in each batch, in eval mode and without gradients; -1 is the first input."""
    device = next((one.device for one in [*chain.parameters(), *chain.buffers()]), torch.device("cpu"))
    for batch in batches:
        args, kwargs = batch_inputs(moved(batch, device))
        inputs = (*args, *chain.ordered(kwargs))
        out, value = {-1: inputs[0]} if -1 in cuts else {}, None
        with torch.no_grad(), in_eval(chain):
            for at in range(max(cuts, default=-1) + 1):
                value = chain.run(inputs, value, start=at - 1, stop=at)
                if at in cuts:
                    out[at] = value
        yield out


def crossing_both(front: Chain, end: Chain, task: Task, pairs: Iterable[Pair]) -> Iterator[tuple[dict[int, Tensor], dict[int, Tensor]]]:
    """Iterate over what crosses in two networks at pairs of cuts; batches are read once, since a loader may shuffle."""
    pairs, batches = list(pairs), tee(task.batches)
    cuts = (sorted({a for a, _ in pairs}), sorted({b for _, b in pairs}))
    return zip(crossing(front, batches[0], cuts[0]), crossing(end, batches[1], cuts[1]), strict=True)


def source_of(chain: Chain, at: int, example: Tensor) -> Cut:
    """A cut of a chain, or its input as one, for controls."""
    if at >= 0:
        return chain.cuts[at]
    if not example.is_floating_point() or example.ndim < 2:
        raise AnalysisError("the input is no tensor of floats, so nothing can be stitched to it; name a cut")
    return Cut("input", tuple(example.shape[1:]), 0, "in")


def gathered(front: Chain, end: Chain, task: Task, pairs: Iterable[Pair]) -> dict[Pair, Gathered]:
    """Sum what crosses at pairs of cuts, over all batches of a task: memory grows with units and places, not with data.

    Args:
        front: whose features are taken.
        end: whose features are wanted.
        task: the data of both.
        pairs: of cuts.

    Raises:
        AnalysisError: there is no data, what crosses is not finite, or a place has more than two dimensions.
    """
    pairs = list(pairs)
    out: dict[Pair, Gathered] = {}
    for left, right in crossing_both(front, end, task, pairs):
        for a, b in pairs:
            if (a, b) not in out:
                out[a, b] = Gathered(Bridge(source_of(front, a, left[a]), source_of(end, b, right[b])), dtype=right[b].dtype)
            out[a, b].add(left[a], right[b])
    if not out:
        raise AnalysisError("expected data to fit stitches on, found no batches; give the task some")
    return out


def gather(front: Chain, end: Chain, task: Task, pairs: Iterable[Pair]) -> dict[Pair, tuple[Bridge, Moments]]:
    """Sum second moments between what crosses at pairs of cuts, with the bridge between these; see `gathered`."""
    return {pair: (one.bridge, one.moments) for pair, one in gathered(front, end, task, pairs).items()}


def fit_stitches(
    front: Chain,
    end: Chain,
    task: Task,
    pairs: Iterable[Pair],
    kind: str = "linear",
    *,
    bias: Bias = "places",
    generator: torch.Generator | None = None,
    settings: Mapping[str, Any] | None = None,
) -> dict[Pair, Stitch]:
    """Find a stitch for each of some pairs of cuts, on all data of a task.

    Args:
        front: whose features are taken.
        end: whose features are wanted.
        task: the data; some hundred examples are enough for least squares.
        pairs: of cuts, each a cut of the front and one of the end; what is wanted is what crosses at the end's cut, the first as any other.
        kind: one of `stitches`.
        bias: whether each unit has one bias, or one at each place of the target: a network that has added positions to its tokens, or
            padded its maps, cannot do without.
        generator: a source of chance, for kinds that draw numbers.
        settings: of the kind.

    Raises:
        AnalysisError: see `gathered`, and the kind.
        UnknownNameError: no such kind, or no such way with the bias.
    """
    expect_bias(bias)
    found = stitches[kind]
    return {
        pair: one.stitch(found, bias=bias, generator=generator, settings=settings or {})
        for pair, one in gathered(front, end, task, pairs).items()
    }


def expect_bias(bias: str) -> None:
    """See that there is such a way with the bias.

    Raises:
        UnknownNameError: there is none.
    """
    if bias not in BIASES:
        raise UnknownNameError.of("bias of a stitch", bias, BIASES)


__all__ = [
    "BIASES",
    "Bias",
    "Gathered",
    "Pair",
    "crossing",
    "crossing_both",
    "expect_bias",
    "fit_stitches",
    "gather",
    "gathered",
    "source_of",
]
