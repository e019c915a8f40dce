"""A patchwork: chains, stitches between their cuts, and the routes that run through them, of which one is in use."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor, nn

from weightspace.analysis.stitching.chain import Chain, in_eval
from weightspace.analysis.stitching.layer import Stitch
from weightspace.errors import AnalysisError


@dataclass(frozen=True)
class Piece:
    """A stretch of one chain.

    Attributes:
        chain: index of the chain.
        start: index of the cut behind which it begins; -1 is the input.
        stop: index of the cut at which it ends; None is the end of the network.
    """

    chain: int
    start: int = -1
    stop: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing runs: the raw input, stitched on for a control."""
        return self.stop == self.start


@dataclass(frozen=True)
class Route:
    """Pieces in the order in which they run, with a stitch between each two.

    Attributes:
        pieces: of chains; the first begins at the input, the last ends at the end of its network.
        stitches: indices of stitches, one fewer than pieces.
    """

    pieces: tuple[Piece, ...]
    stitches: tuple[int, ...] = ()

    @property
    def is_anchor(self) -> bool:
        """Whether it is one network as it was."""
        return not self.stitches


class Patchwork(nn.Module):
    """Chains and stitches with routes through them; all parameters are there once, whatever runs through them.

    Attributes:
        chains: the networks, in parts.
        stitches: layers that routes share or have of their own.
        routes: ways through.
        names: of the chains, to be read.
        route: index of the one in use, which `use` changes at once.
    """

    def __init__(self, chains: Sequence[Chain], stitches: Sequence[Stitch], routes: Sequence[Route], names: Sequence[str] = ()) -> None:
        """Put them together.

        Args:
            chains: the networks, used as they are.
            stitches: the layers between them.
            routes: ways through; the first is in use.
            names: of the chains; by default their numbers.

        Raises:
            AnalysisError: a route is none, or there are not as many names as chains.
        """
        super().__init__()
        if names and len(names) != len(chains):
            raise AnalysisError(f"expected {len(chains)} names, one for each chain, found {len(names)}; give as many, or none")
        self.names = tuple(names) or tuple(map(str, range(len(chains))))
        self.chains, self.stitches, self.routes = nn.ModuleList(chains), nn.ModuleList(stitches), tuple(routes)
        self.route = 0
        for one in self.routes:
            _expect_route(one, chains, len(stitches))

    def use(self, route: int) -> "Patchwork":
        """Switch to another route, at no cost; returns itself.

        Raises:
            AnalysisError: there are not so many.
        """
        if not 0 <= route < len(self.routes):
            raise AnalysisError(f"expected a route from 0 to {len(self.routes) - 1}, found {route}; name one that there is")
        self.route = route
        return self

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Run the route in use; what it gives is what its last network gives."""
        route, value = self.routes[self.route], None
        for at, piece in enumerate(route.pieces):
            chain = self.chain(piece.chain)
            given = (*inputs, *chain.ordered(kwargs))
            features: Tensor | None = self.stitches[route.stitches[at - 1]](value) if at else None
            value = given[0] if piece.is_empty else chain.run(given, features, start=piece.start, stop=piece.stop)
        return value

    def chain(self, index: int) -> Chain:
        """One of the networks."""
        found = self.chains[index]
        assert isinstance(found, Chain)
        return found

    def parameters_of(self, route: int) -> list[nn.Parameter]:
        """The parameters that a route runs through, each once."""
        one = self.routes[route]
        found: dict[int, nn.Parameter] = {}
        for piece in one.pieces:
            parts = self.chain(piece.chain).parts
            last = len(parts) if piece.stop is None else piece.stop + 1
            found |= {id(each): each for at in range(piece.start + 1, last) for each in parts[at].parameters()}
        found |= {id(each): each for at in one.stitches for each in self.stitches[at].parameters()}
        return list(found.values())

    def describe(self, route: int) -> str:
        """A route in words: the places where it changes from one chain to another."""
        pieces = self.routes[route].pieces
        if len(pieces) == 1:
            return self.names[pieces[0].chain]
        names = []
        for one, other in pairwise(pieces):
            a, b = self.chain(one.chain), self.chain(other.chain)
            left = "input" if one.stop == -1 or one.stop is None else a.cuts[one.stop].name
            names.append(f"{self.names[one.chain]}:{left} > {self.names[other.chain]}:{b.cuts[other.start].name}")
        return ", ".join(names)


def stitched(front: Chain, end: Chain, stitch: Stitch, pair: tuple[int, int]) -> Patchwork:
    """The front of one network up to a cut (-1: the input itself), a stitch, and the end of another from behind a cut."""
    return Patchwork([front, end], [stitch], [Route((Piece(0, -1, pair[0]), Piece(1, pair[1])), (0,))])


def anchors(chains: Sequence[Chain]) -> list[Route]:
    """The routes that are networks as they were."""
    return [Route((Piece(at),)) for at in range(len(chains))]


def _expect_route(route: Route, chains: Sequence[Chain], count: int) -> None:
    pieces = route.pieces
    if len(pieces) != len(route.stitches) + 1 or pieces[0].start != -1 or pieces[-1].stop is not None:
        raise AnalysisError("a route begins at an input, ends at an output and has a stitch between each two pieces; give it so")
    for one in pieces:
        if not 0 <= one.chain < len(chains):
            raise AnalysisError(f"there is no chain {one.chain} among {len(chains)}; name one that there is")
        cuts = len(chains[one.chain].cuts)
        stop = cuts if one.stop is None else one.stop
        if not -1 <= one.start <= stop <= cuts or (one.is_empty and one is not pieces[0]) or (one.stop is not None and one.stop >= cuts):
            raise AnalysisError(f"there is no piece of chain {one.chain} from cut {one.start} to {one.stop}; chains have {cuts} cuts")
    if any(not 0 <= at < count for at in route.stitches):
        raise AnalysisError(f"a route names a stitch that there is not: {route.stitches} of {count}")


def batch_like(task_batches: Any, examples: int = 2) -> Any:
    """The first examples of the first batch of a task, for costs and shapes."""
    from weightspace.task import tensors_in

    batch = next(iter(task_batches))
    sizes = [len(tensor) for tensor in tensors_in(batch) if tensor.ndim]
    cut = min([examples, *sizes])
    return _first(batch, cut)


def _first(value: Any, count: int) -> Any:
    if isinstance(value, Tensor):
        return value[:count] if value.ndim else value
    if isinstance(value, dict):
        return {name: _first(one, count) for name, one in value.items()}
    return type(value)(_first(one, count) for one in value) if isinstance(value, tuple | list) else value


__all__ = ["Patchwork", "Piece", "Route", "anchors", "batch_like", "in_eval", "stitched"]
