"""Building an assembly: its pieces cut out of their networks and joined by stitches, each fitted on what really arrives at it."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.analysis.stitching.bridge import Bridge
from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.costs import device_of
from weightspace.analysis.stitching.fitting import Gathered, crossing
from weightspace.analysis.stitching.layer import Stitch, stitches
from weightspace.analysis.stitching.patchwork import Patchwork, Piece, Route
from weightspace.analysis.stitching.reassembly.assembly import Assembly, Block
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task, batch_inputs, moved

FEATURES = ("arriving", "original")
"""What a stitch is fitted on: what comes out of the pieces and stitches before it, or what crosses there in the network that its piece is of."""


def assemble(
    assembly: Assembly,
    chains: Mapping[str, Chain],
    task: Task,
    *,
    features: str = "arriving",
    generator: torch.Generator | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Patchwork:
    """Join the blocks of an assembly by stitches of its kind, one after the other from the input on.

    Each stitch maps what ends one piece to what the network of the next piece has at that cut. DeRy (Yang et al., arXiv:2210.17409) begins
    with random stitches; these are fitted.

    Args:
        assembly: a plan.
        chains: the networks by name, of which copies are taken; only those in the plan are needed.
        task: the data; its module is not used.
        features: `arriving` or `original`.
        generator: a source of chance, for kinds of stitches that draw numbers.
        settings: of the kind of stitch.

    Returns:
        A patchwork of one route, which holds what runs and no other part of the networks.

    Raises:
        AnalysisError: a network or a cut is missing, there is no data, or two cuts cannot be stitched.
        UnknownNameError: no such features, or no such kind of stitch.
    """
    if features not in FEATURES:
        raise UnknownNameError.of("features to fit on", features, FEATURES)
    pieces, names = assembly.pieces, assembly.networks
    for one in pieces:
        _expect_there(one, chains)
    kept = [_kept(chains[name], [one for one in pieces if one.network == name]) for name in names]
    route = [Piece(names.index(one.network), one.start, one.stop) for one in pieces]
    found: list[Stitch] = []
    for at, (one, other) in enumerate(pairwise(pieces)):
        assert one.stop is not None
        source, target = chains[one.network].cuts[one.stop], chains[other.network].cuts[other.start]
        gathered = Gathered(Bridge(source, target))
        taken = (
            _arriving(kept, route[: at + 1], found, task)
            if features == "arriving"
            else (values[one.stop] for values in crossing(chains[one.network], task.batches, [one.stop]))
        )
        for left, right in zip(taken, crossing(chains[other.network], task.batches, [other.start]), strict=True):
            gathered.add(left, right[other.start])
        if not gathered.moments.count:
            raise AnalysisError("expected data to fit stitches on, found no batches; give the task some")
        found.append(gathered.stitch(stitches[assembly.kind], bias=assembly.bias, generator=generator, settings=settings or {}))
    return Patchwork(kept, found, [Route(tuple(route), tuple(range(len(found))))])


def _arriving(chains: Sequence[Chain], pieces: Sequence[Piece], found: Sequence[Stitch], task: Task) -> Iterator[Tensor]:
    """What comes out of the pieces joined so far, batch by batch."""
    for batch in task.batches:
        args, kwargs = batch_inputs(moved(batch, device_of(chains[pieces[0].chain])))
        value: Tensor | None = None
        with torch.no_grad():
            for at, piece in enumerate(pieces):
                chain = chains[piece.chain]
                value = found[at - 1](value) if at else None
                value = chain.run((*args, *chain.ordered(kwargs)), value, start=piece.start, stop=piece.stop)
        assert value is not None
        yield value


def _kept(chain: Chain, pieces: Sequence[Block]) -> Chain:
    """A copy of a chain without the parts that no piece runs through."""
    runs = {at for one in pieces for at in range(one.start + 1, len(chain.parts) if one.stop is None else one.stop + 1)}
    parts = [copy.deepcopy(part) if at in runs else nn.Identity() for at, part in enumerate(chain.parts)]
    return Chain(parts, chain.cuts, chain.needs, chain.inputs)


def _expect_there(one: Block, chains: Mapping[str, Chain]) -> None:
    """See that a block's network is there, and is long enough."""
    if one.network not in chains:
        raise AnalysisError(f"the plan takes {one} from network '{one.network}', which is not given; give it with the others")
    cuts = len(chains[one.network].cuts)
    if not -1 <= one.start < (cuts if one.stop is None else one.stop) <= cuts or (one.stop is not None and one.stop >= cuts):
        raise AnalysisError(f"the plan takes {one}, but network '{one.network}' has {cuts} cuts; give the network that was planned with")


__all__ = ["FEATURES", "assemble"]
