"""A family: anchors of several sizes and the stitched networks between them, as one patchwork."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from weightspace.analysis.stitching.bridge import Bridge
from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.costs import flops_of
from weightspace.analysis.stitching.fitting import Bias, Gathered, Pair, crossing_both
from weightspace.analysis.stitching.layer import Affine, Stitch, stitches
from weightspace.analysis.stitching.pairs import Join, joins, neighbours
from weightspace.analysis.stitching.patchwork import Patchwork, Piece, Route, anchors, in_eval
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task

SHARES = ("own", "joint", "averaged")


def family(
    chains: Sequence[Chain] | Mapping[str, Chain],
    task: Task,
    *,
    pairs: str = "nearest",
    window: str = "all",
    kind: str = "linear",
    share: str = "own",
    bias: Bias = "places",
    settings: Mapping[str, Any] | None = None,
    generator: torch.Generator | None = None,
) -> Patchwork:
    """Join networks of several sizes into one of which any size may be run (Pan et al., Stitchable Neural Networks, arXiv:2302.06586).

    Routes are all anchors, then for each pair of them all joins, from the smaller into the larger one. Nothing is trained: stitches are fitted to what the
    larger one expects at the cut, which for its block 0 is what crosses behind its stem (the paper's code takes the last block's features there).

    Args:
        chains: the anchors, in any order; those of the patchwork are in the order of FLOPs. They are used as they are, not copied.
        task: data to fit stitches on, of all networks alike; some hundred examples are enough for least squares.
        pairs: which networks are joined, `nearest` or `all`; see `neighbours`.
        window: which blocks are joined, `all`, `forward` or `every`; see `joins`.
        kind: one of `stitches`.
        share: whether each join has a layer of its own (`own`), or those of a group have one together, as far as their shapes are the same: found from
            the sum of their normal equations (`joint`), or as the mean of the maps found for each (`averaged`, as in the paper).
        bias: what a stitch has a bias for; see `fit_stitches`.
        settings: of the kind.
        generator: a source of chance, for kinds that draw numbers.

    Raises:
        UnknownNameError: there is no such choice.
        AnalysisError: there are fewer than two networks, too few blocks, or no data.
    """
    if share not in SHARES:
        raise UnknownNameError.of("way to share", share, SHARES)
    named = dict(chains) if isinstance(chains, Mapping) else {str(at): one for at, one in enumerate(chains)}
    if len(named) < 2:
        raise AnalysisError(f"a family needs two networks or more, found {len(named)}; give it anchors of several sizes")
    batch = next(iter(task.batches), None)
    if batch is None:
        raise AnalysisError("expected data to fit stitches on, found no batches; give the task some")
    sizes = {name: flops_of(chain, batch) for name, chain in named.items()}
    names = sorted(named, key=sizes.__getitem__)
    ordered = [named[name] for name in names]
    way = _Way(kind, bias, share == "averaged", settings or {}, generator)
    routes = anchors(ordered)
    layers: list[Stitch] = []
    for front, end in neighbours([sizes[name] for name in names], pairs):
        found = joins(ordered[front], ordered[end], window)
        groups = {one.cuts: (_place(ordered[front], ordered[end], one) if share != "own" else one.cuts) for one in found}
        made = _fitted(ordered[front], ordered[end], task, groups, way)
        index = {group: len(layers) + at for at, group in enumerate(made)}
        layers += made.values()
        routes += [Route((Piece(front, -1, a), Piece(end, b)), (index[group],)) for (a, b), group in groups.items()]
    return Patchwork(ordered, layers, routes, names=names)


def _place(front: Chain, end: Chain, join: Join) -> Hashable:
    """What joins that share a layer have in common: their group and the shapes on both sides."""
    a, b = front.cuts[join.cuts[0]], end.cuts[join.cuts[1]]
    return join.group, a.shape, a.axis, b.shape, b.axis


@dataclass(frozen=True)
class _Way:
    """How stitches are found."""

    kind: str
    bias: Bias
    is_averaged: bool
    settings: Mapping[str, Any]
    generator: torch.Generator | None


def _fitted(front: Chain, end: Chain, task: Task, groups: Mapping[Pair, Hashable], way: _Way) -> dict[Hashable, Stitch]:
    """A stitch for each group of joins: from what is summed over all of them, or as the mean of those of each."""
    found: dict[Hashable, dict[Pair | None, Gathered]] = {group: {} for group in groups.values()}
    with in_eval(front, end):
        for left, right in crossing_both(front, end, task, groups):
            for (a, b), group in groups.items():
                key = (a, b) if way.is_averaged else None
                if key not in found[group]:
                    found[group][key] = Gathered(Bridge(front.cuts[a], end.cuts[b]), dtype=right[b].dtype)
                found[group][key].add(left[a], right[b])
    kind = stitches[way.kind]
    return {
        group: _mean([one.stitch(kind, bias=way.bias, generator=way.generator, settings=way.settings) for one in sums.values()])
        for group, sums in found.items()
    }


def _mean(made: Sequence[Stitch]) -> Stitch:
    if len(made) == 1:
        return made[0]
    weight, bias = (torch.stack([getattr(one, name).detach() for one in made]).mean(0) for name in ("weight", "bias"))
    return Stitch(made[0].bridge, Affine(weight, bias)).to(weight.dtype)


__all__ = ["SHARES", "family"]
