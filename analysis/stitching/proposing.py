"""Proposing: routes through networks of a catalog with how well they fit and what they cost, and making what was planned."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, cast

import torch

from weightspace.analysis.stitching.bridge import Bridge
from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.costs import costs
from weightspace.analysis.stitching.family import family
from weightspace.analysis.stitching.fit import fit_error
from weightspace.analysis.stitching.fitting import Bias, Pair, expect_bias, fit_stitches, gather
from weightspace.analysis.stitching.layer import Stitch, stitches
from weightspace.analysis.stitching.patchwork import Patchwork, Piece, Route
from weightspace.analysis.stitching.plan import Plan, Way
from weightspace.analysis.stitching.reassembly import Assembly, Block, assemble, plan_reassembly
from weightspace.errors import AnalysisError
from weightspace.task import Task

Progress = Callable[[int, int], None]
Pairs = Mapping[tuple[int, int], Sequence[Pair]]
"""By front and end, indices of chains, the cuts that are joined."""


@dataclass(frozen=True)
class Wish:
    """What is asked of a plan.

    Attributes:
        kind, settings, bias, share: see `Plan`.
        pairs, window: of a family; see `family`.
        blocks: of a reassembly, from each network.
        max_flops: of one example.
        max_parameters: that a route runs through.
    """

    kind: str = "linear"
    settings: Mapping[str, Any] | None = None
    bias: str = "places"
    share: str = "own"
    pairs: str = "nearest"
    window: str = "all"
    blocks: int = 4
    max_flops: int | None = None
    max_parameters: int | None = None


def propose(
    purpose: str,
    chains: Sequence[Chain],
    task: Task,
    wish: Wish,
    *,
    at: tuple[int, int] | None = None,
    generator: torch.Generator | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[Way, ...]:
    """Propose routes, the best fitting first, or for a family the cheapest.

    Args:
        purpose: `pairs` (from the first chain into the second), `family` or `reassembly`.
        chains: the networks.
        task: data to fit stitches on; what fits is judged on every other example.
        wish: what is asked for.
        at: of pairs, the only one: a cut of the first, and one of the second.
        generator: a source of chance.
        progress: is told of every pair of networks.

    Raises:
        AnalysisError: nothing can be joined so, or nothing within the budget.
    """
    if purpose == "reassembly":
        found: list[Way] = [_reassembled(chains, task, wish, generator, progress)]
    else:
        if purpose == "family":
            names = [str(index) for index in range(len(chains))]
            made = family(
                dict(zip(names, chains, strict=True)), task, pairs=wish.pairs, window=wish.window, kind=wish.kind, settings=wish.settings,
                share=wish.share, generator=generator,
            )  # fmt: skip
            asked = _joined(made, [int(name) for name in made.names])
        else:
            asked = {(0, 1): [at] if at is not None else possible(chains[0], chains[1], wish.kind)}
        found = _measured(chains, task, asked, wish, generator, progress)
    kept = [one for one in found if _within(one, wish)]
    if not any(one.at for one in kept):
        least = min((one for one in found if one.at), key=lambda one: one.flops)
        raise AnalysisError(
            f"no stitched network is within the budget; the cheapest has {least.flops:,.0f} FLOPs and {least.parameters:,} parameters: raise it"
        )
    return tuple(sorted(kept, key=lambda one: one.flops if purpose == "family" else (bool(one.at), one.error)))


def possible(front: Chain, end: Chain, kind: str) -> list[Pair]:
    """All pairs of cuts between which there can be a stitch of a kind.

    Raises:
        AnalysisError: there are none.
    """
    found = []
    for a, source in enumerate(front.cuts):
        for b, target in enumerate(end.cuts):
            if max(len(source.places), len(target.places)) > 2:
                continue
            taken, given = Bridge(source, target).units
            if taken == given or not stitches[kind].is_square:
                found.append((a, b))
    if not found:
        raise AnalysisError(
            f"no cut of the first network can be joined to one of the second by stitch '{kind}'; take 'linear', or other networks"
        )
    return found


def _joined(patchwork: Patchwork, order: Sequence[int]) -> dict[tuple[int, int], list[Pair]]:
    """The joins of a family by the networks that they join, whatever order it has put these into."""
    found: dict[tuple[int, int], list[Pair]] = {}
    for route in patchwork.routes:
        for one, other in pairwise(route.pieces):
            assert one.stop is not None
            found.setdefault((order[one.chain], order[other.chain]), []).append((one.stop, other.start))
    return found


def _measured(
    chains: Sequence[Chain], task: Task, asked: Pairs, wish: Wish, generator: torch.Generator | None, progress: Progress
) -> list[Way]:
    """The networks as they are and all joins, with fit and costs."""
    ways, routes, layers = [Way((at,)) for at in range(len(chains))], [Route((Piece(at),)) for at in range(len(chains))], list[Stitch]()
    for done, ((front, end), pairs) in enumerate(asked.items()):
        progress(done, len(asked))
        one, other = chains[front], chains[end]
        fits = fit_error(one, other, task, pairs, wish.kind, bias=_bias(wish.bias), generator=generator, settings=wish.settings)
        moments = gather(one, other, task, pairs)
        for pair, fit in fits.items():
            cuts = (_name(one, pair[0]), _name(other, pair[1]))
            ways.append(Way((front, end), (cuts,), fit.error, moments[pair][1].cka(debiased=True)))
            routes.append(Route((Piece(front, -1, pair[0]), Piece(end, pair[1])), (len(layers),)))
            layers.append(fit.stitch)
    found = costs(Patchwork(chains, layers, routes), task, examples=8, repeats=0)
    out = []
    for way, route, cost in zip(ways, routes, found, strict=True):
        own = sum(parameter.numel() for at in route.stitches for parameter in layers[at].parameters())
        flops = sum((_stitch_flops(layers[at]) for at in route.stitches), 0.0)
        out.append(replace(way, flops=cost.flops, parameters=cost.parameters, stitch_flops=flops, stitch_parameters=own))
    return out


def _reassembled(chains: Sequence[Chain], task: Task, wish: Wish, generator: torch.Generator | None, progress: Progress) -> Way:
    """The one route of a reassembly."""
    named = {str(at): chain for at, chain in enumerate(chains)}
    found = plan_reassembly(
        named, task, blocks=wish.blocks, max_flops=wish.max_flops, max_parameters=wish.max_parameters, kind=wish.kind, generator=generator,
        progress=progress,
    )  # fmt: skip
    way = Way(
        tuple(int(one.network) for one in found.pieces),
        tuple(
            (_name(named[one.network], one.stop if one.stop is not None else -1), _name(named[other.network], other.start))
            for one, other in pairwise(found.pieces)
        ),
        flops=float(found.flops),
        parameters=found.parameters,
    )
    for one, other in pairwise(_pieces(way, chains)):
        assert one.stop is not None
        pair, ends = (one.stop, other.start), (chains[one.chain], chains[other.chain])
        fit = fit_error(*ends, task, [pair], wish.kind, bias="places", generator=generator, settings=wish.settings)[pair]
        cka = gather(*ends, task, [pair])[pair][1].cka(debiased=True)
        way = replace(
            way,
            error=fit.error if math.isnan(way.error) else max(way.error, fit.error),
            cka=cka if math.isnan(way.cka) else min(way.cka, cka),
            stitch_flops=way.stitch_flops + _stitch_flops(fit.stitch),
            stitch_parameters=way.stitch_parameters + sum(parameter.numel() for parameter in fit.stitch.parameters()),
        )
    return way


def realise(plan: Plan, chains: Sequence[Chain], task: Task, *, generator: torch.Generator | None = None) -> tuple[Patchwork, list[int]]:
    """Make what is planned: stitches found on all data of a task, nothing trained.

    Args:
        plan: which routes.
        chains: its networks, in its order.
        task: the data.
        generator: a source of chance.

    Returns:
        The patchwork, its routes in the plan's order, and which networks of the plan its chains are.

    Raises:
        UnknownNameError: a network has no cut of that name.
        AnalysisError: a route cannot be run, or stitches are to be shared that no family shares.
    """
    routes = [_pieces(way, chains) for way in plan.routes]
    if plan.purpose == "reassembly" or any(len(pieces) > 2 for pieces in routes):
        return _assembled(plan, routes, chains, task, generator)
    asked: dict[tuple[int, int], list[Pair]] = {}
    for one, other in (pair for pieces in routes for pair in pairwise(pieces)):
        assert one.stop is not None
        asked.setdefault((one.chain, other.chain), []).append((one.stop, other.start))
    if plan.share != "own":
        return _shared(plan, routes, chains, task, generator)
    layers: list[Stitch] = []
    index: dict[tuple[int, int, Pair], int] = {}
    for (front, end), pairs in asked.items():
        found = fit_stitches(
            chains[front],
            chains[end],
            task,
            dict.fromkeys(pairs),
            plan.kind,
            bias=_bias(plan.bias),
            generator=generator,
            settings=plan.settings,
        )
        for pair, layer in found.items():
            index[front, end, pair] = len(layers)
            layers.append(layer)
    made = [
        Route(tuple(pieces), tuple(index[a.chain, b.chain, (a.stop if a.stop is not None else -1, b.start)] for a, b in pairwise(pieces)))
        for pieces in routes
    ]
    return Patchwork(chains, layers, made), list(range(len(chains)))


def _assembled(
    plan: Plan, routes: Sequence[Sequence[Piece]], chains: Sequence[Chain], task: Task, generator: torch.Generator | None
) -> tuple[Patchwork, list[int]]:
    if len(routes) > 1:
        raise AnalysisError("a route through more than two networks is the only one of its plan; take the others out, or that one")
    assembly = Assembly(tuple(Block(str(one.chain), one.start, one.stop) for one in routes[0]), plan.kind)
    named = {str(at): chain for at, chain in enumerate(chains)}
    return assemble(assembly, named, task, generator=generator, settings=plan.settings), [int(name) for name in assembly.networks]


def _shared(
    plan: Plan, routes: Sequence[Sequence[Piece]], chains: Sequence[Chain], task: Task, generator: torch.Generator | None
) -> tuple[Patchwork, list[int]]:
    """The routes of a family that are planned, with stitches that they share."""
    named = {str(at): chain for at, chain in enumerate(chains)}
    options: dict[str, Any] = {"kind": plan.kind, "share": plan.share, "settings": plan.settings, "generator": generator}
    made = family(named, task, pairs="all", window="all", **options)
    order = [int(name) for name in made.names]
    there = {tuple(replace(piece, chain=order[piece.chain]) for piece in route.pieces): route for route in made.routes}
    missing = next((at for at, pieces in enumerate(routes) if tuple(pieces) not in there), None)
    if missing is not None:
        raise AnalysisError(f"route {missing} of the plan is none of a family's, so it shares no stitch; take it out, or share: own")
    made.routes = tuple(there[tuple(pieces)] for pieces in routes)
    return made, order


def _pieces(way: Way, chains: Sequence[Chain]) -> list[Piece]:
    """A route's pieces, its cuts looked up."""
    starts, stops = [-1], list[int | None]()
    for (one, other), (left, right) in zip(pairwise(way.networks), way.at, strict=True):
        stops.append(chains[one].index(left))
        starts.append(chains[other].index(right))
        if starts[-1] == -1:
            raise AnalysisError(f"a route enters network {other} at its input, where nothing is stitched on; name a cut")
    return [Piece(*piece) for piece in zip(way.networks, starts, [*stops, None], strict=True)]


def _within(way: Way, wish: Wish) -> bool:
    limits = ((way.flops, wish.max_flops), (way.parameters, wish.max_parameters))
    return all(limit is None or value <= limit for value, limit in limits)


def _stitch_flops(stitch: Stitch) -> float:
    """Two for each weight at each place."""
    taken, given = stitch.bridge.units
    return 2.0 * taken * given * stitch.bridge.positions


def _name(chain: Chain, at: int) -> str:
    return "input" if at < 0 else chain.cuts[at].name


def _bias(text: str) -> Bias:
    """The word as fitting takes it.

    Raises:
        UnknownNameError: it takes no such word.
    """
    expect_bias(text)
    return cast(Bias, text)


__all__ = ["Wish", "possible", "propose", "realise"]
