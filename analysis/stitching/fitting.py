"""Fitting stitches: what crosses at the cuts of two chains, gathered over a task's data, and the maps that follow from it."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from weightspace.analysis.moments import Moments
from weightspace.analysis.stitching.bridge import Bridge
from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.layer import Stitch, stitches
from weightspace.errors import AnalysisError
from weightspace.task import Task, batch_inputs
from weightspace.tracing.cutting import Cut

Pair = tuple[int, int]
"""Index of a cut of the front, of a cut of the end; -1 is the input."""


def crossing(chain: Chain, batches: Iterable[Any], cuts: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Iterate over what crosses at cuts in each batch, without gradients; -1 is the first input."""
    for batch in batches:
        args, kwargs = batch_inputs(batch)
        inputs = (*args, *chain.ordered(kwargs))
        out, value = {-1: inputs[0]} if -1 in cuts else {}, None
        with torch.no_grad():
            for at in range(max(cuts, default=-1) + 1):
                value = chain.run(inputs, value, start=at - 1, stop=at)
                if at in cuts:
                    out[at] = value
        yield out


def source_of(chain: Chain, at: int, example: Tensor) -> Cut:
    """A cut of a chain, or its input as one, for controls."""
    if at >= 0:
        return chain.cuts[at]
    if not example.is_floating_point() or example.ndim < 2:
        raise AnalysisError("the input is no tensor of floats, so nothing can be stitched to it; name a cut")
    return Cut("input", tuple(example.shape[1:]), 0, "in")


def gather(front: Chain, end: Chain, task: Task, pairs: Iterable[Pair]) -> dict[Pair, tuple[Bridge, Moments]]:
    """Sum second moments between what crosses at pairs of cuts, over all batches of a task: memory grows with units, not with data.

    Args:
        front: whose features are taken.
        end: whose features are wanted.
        task: the data of both.
        pairs: of cuts.

    Raises:
        AnalysisError: there is no data, or a place with more than two dimensions.
    """
    pairs = list(pairs)
    out: dict[Pair, tuple[Bridge, Moments]] = {}
    own = (sorted({a for a, _ in pairs}), sorted({b for _, b in pairs}))
    for left, right in zip(crossing(front, task.batches, own[0]), crossing(end, task.batches, own[1]), strict=True):
        for a, b in pairs:
            if (a, b) not in out:
                out[a, b] = Bridge(source_of(front, a, left[a]), source_of(end, b, right[b])), Moments()
            bridge, moments = out[a, b]
            moments.add(bridge.rows(left[a]).flatten(0, 1), bridge.target_rows(right[b]).flatten(0, 1))
    if not out:
        raise AnalysisError("expected data to fit stitches on, found no batches; give the task some")
    return out


def fit_stitches(
    front: Chain,
    end: Chain,
    task: Task,
    pairs: Iterable[Pair],
    kind: str = "linear",
    *,
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
        generator: a source of chance, for kinds that draw numbers.
        settings: of the kind.
    """
    found = gather(front, end, task, pairs)
    return {
        pair: Stitch(bridge, stitches[kind](moments, generator=generator, **(settings or {}))) for pair, (bridge, moments) in found.items()
    }


__all__ = ["Pair", "crossing", "fit_stitches", "gather", "source_of"]
