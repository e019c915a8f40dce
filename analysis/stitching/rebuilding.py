"""Rebuilding: a patchwork from its recipe, every claim of which is checked before anything of its size is made."""

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.analysis.stitching.bridge import Bridge
from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.layer import Affine, Stitch
from weightspace.analysis.stitching.origin import FREE, REACH, Origin
from weightspace.analysis.stitching.patchwork import Patchwork, Piece, Route
from weightspace.errors import DAMAGE, AnalysisError, WeightSpaceError, one_line
from weightspace.modules import HELD
from weightspace.task import batch_inputs
from weightspace.tracing.cutting import Cut
from weightspace.tracing.lines import Holder

NAME = "stitched"
"""Of the recipes of patchworks."""

EXAMPLES = 2
"""In the inputs on which modules are cut again."""


def built(recipe: Mapping[str, Any], *, allow: Collection[str] = (), held: int | None = None) -> Patchwork:
    """Build the patchwork of a recipe, its weights as building draws them, and zeros in stitches.

    Args:
        recipe: as `checkpoint_of_patchwork` makes it.
        allow: functions of the user's own that build networks, and may run.
        held: how many values the file holds that it is of.

    Raises:
        AnalysisError: the recipe is damaged, names code that is not allowed, or is out of proportion to its file.
    """
    try:
        return _built(recipe, allow, recipe.get(HELD) if held is None else held)
    except WeightSpaceError:
        raise
    except (*DAMAGE, RuntimeError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise AnalysisError(f"the recipe of the patchwork is damaged ({one_line(said, 160)}); build it anew") from error


def _built(recipe: Mapping[str, Any], allow: Collection[str], held: int | None) -> Patchwork:
    most = None if held is None else REACH * held + FREE
    routes = [Route(tuple(_piece(one) for one in told["pieces"]), tuple(map(_whole, told["stitches"]))) for told in recipe["routes"]]
    cuts = [tuple(map(_cut, told["cuts"])) for told in recipe["chains"]]
    inputs = _inputs(recipe["inputs"], most)
    bridges = [Bridge(_cut(told["source"]), _cut(told["target"])) for told in recipe["stitches"]]
    claimed = sum(taken * given for taken, given in (one.units for one in bridges))
    if held is not None and claimed > held:
        raise AnalysisError(f"the stitches of the patchwork ask for {claimed:,} values, but its file holds {held:,}; do not load this file")
    for route in routes:
        _expect_fitting(route, cuts, bridges)
    used = {piece.chain for route in routes for piece in route.pieces}
    if not routes or used != set(range(len(cuts))):
        raise AnalysisError(f"the routes of the patchwork run through {len(used)} of its {len(cuts)} networks; build it anew")
    chosen = _whole(recipe["route"])
    if not 0 <= chosen < len(routes):
        raise AnalysisError(f"the patchwork has route {chosen} in use, and {len(routes)} routes, counted from 0; build it anew")
    running = parts_run(routes, [len(one) for one in cuts])
    chains, rest = [], []
    for at, told in enumerate(recipe["chains"]):
        module = Origin.told(told["origin"]).module(allow=allow, held=held)
        with torch.random.fork_rng(devices=[]):
            chain = _chain(module, inputs, cuts[at], str(told.get("name", at)))
        known = chain.weights()
        rest.append(Holder(_rest(module, known) if is_whole(routes, at) else {}))
        kept = [part if index in running[at] else nn.Identity() for index, part in enumerate(chain.parts)]
        chains.append(Chain(kept, chain.cuts, chain.needs, chain.inputs))
    layers = [_stitch(bridge, str(told["bias"])) for bridge, told in zip(bridges, recipe["stitches"], strict=True)]
    made = Patchwork(chains, layers, routes, [str(told.get("name", at)) for at, told in enumerate(recipe["chains"])])
    made.add_module("rest", nn.ModuleList(rest))
    return made.use(chosen).eval()


def _chain(module: nn.Module, inputs: tuple[tuple[Any, ...], dict[str, Any]], cuts: Sequence[Cut], name: str) -> Chain:
    """Cut a module again, and see that it falls apart where it did."""
    chain = Chain.of(module, *inputs[0], **inputs[1])
    if chain.cuts != tuple(cuts):
        found = ", ".join(one.name for one in chain.cuts)
        raise AnalysisError(
            f"network '{one_line(name, 80)}' is cut at {one_line(found, 160)} here, which is not where it was when it was stitched; build it anew"
        )
    return chain


def _rest(module: nn.Module, known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a module saves and its chain does not have, as buffers; tied tensors are those that they are tied to."""
    state = {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}
    tied = {id(tensor) for name, tensor in state.items() if name in known}
    return {name: tensor.detach() for name, tensor in state.items() if name not in known and id(tensor) not in tied}


def _stitch(bridge: Bridge, bias: str) -> Stitch:
    """A stitch of zeros, with a bias for each unit, or for each at each place."""
    taken, given = bridge.units
    return Stitch(bridge, Affine(torch.zeros(given, taken), torch.zeros((bridge.positions, given) if bias == "places" else given)))


def parts_run(routes: Sequence[Route], cuts: Sequence[int]) -> list[set[int]]:
    """Of each chain, which parts routes run through.

    Args:
        routes: of a patchwork.
        cuts: how many each of its chains has.
    """
    found: list[set[int]] = [set() for _ in cuts]
    for piece in (piece for route in routes for piece in route.pieces):
        found[piece.chain] |= set(range(piece.start + 1, cuts[piece.chain] + 1 if piece.stop is None else piece.stop + 1))
    return found


def is_whole(routes: Sequence[Route], chain: int) -> bool:
    """Whether a route is one chain as it is."""
    return any(route.is_anchor and route.pieces[0].chain == chain for route in routes)


def _expect_fitting(route: Route, cuts: Sequence[Sequence[Cut]], bridges: Sequence[Bridge]) -> None:
    """See that a route's pieces are there, and that its stitches lead from one to the next."""
    for piece in route.pieces:
        count = len(cuts[piece.chain]) if 0 <= piece.chain < len(cuts) else -1
        if not -1 <= piece.start < count or (piece.stop is not None and not piece.start <= piece.stop < count):
            raise AnalysisError(
                f"a route of the patchwork runs from cut {piece.start} to {piece.stop} of network {piece.chain}, which there is not; build it anew"
            )
    if len(route.stitches) != len(route.pieces) - 1 or not all(0 <= at < len(bridges) for at in route.stitches):
        raise AnalysisError(f"a route of the patchwork has the stitches {list(route.stitches)[:8]} of {len(bridges)}; build it anew")
    for at, (one, other) in zip(route.stitches, pairwise(route.pieces), strict=True):
        ends = (
            cuts[one.chain][one.stop] if one.stop not in (None, -1) else None,
            cuts[other.chain][other.start] if other.start >= 0 else None,
        )
        for end, side in zip(ends, (bridges[at].source, bridges[at].target), strict=True):
            if end is not None and (end.shape, end.axis) != (side.shape, side.axis):
                raise AnalysisError(
                    f"a stitch of the patchwork is for {side.shape} and stands at cut '{one_line(end.name, 80)}' of {end.shape}; build it anew"
                )


def signature(example: Any) -> dict[str, Any]:
    """Shapes and dtypes of the inputs in a batch, as JSON has them.

    Raises:
        AnalysisError: an input is no tensor.
    """
    args, kwargs = batch_inputs(example)
    return {"args": [_told_input(one) for one in args], "kwargs": {name: _told_input(one) for name, one in kwargs.items()}}


def _told_input(value: Any) -> dict[str, Any]:
    if not isinstance(value, Tensor):
        raise AnalysisError(f"expected inputs that are tensors, found one of type {type(value).__name__}; a file cannot tell of others")
    return {"shape": list(value.shape[1:]), "dtype": str(value.dtype).removeprefix("torch."), "single": value.ndim == 0}


def _inputs(told: Mapping[str, Any], most: int | None) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Inputs as they are told of, of zeros: what they hold makes no difference to where a module falls apart."""
    return tuple(_input(one, most) for one in told["args"]), {str(name): _input(one, most) for name, one in told["kwargs"].items()}


def _input(told: Mapping[str, Any], most: int | None) -> Tensor:
    shape, kind = _shape(told["shape"]), getattr(torch, str(told["dtype"]), None)
    if not isinstance(kind, torch.dtype) or not told["dtype"].isidentifier():
        raise AnalysisError(
            f"the patchwork has inputs of dtype '{one_line(str(told['dtype']), 40)}', which torch does not have; build it anew"
        )
    if most is not None and EXAMPLES * torch.Size(shape).numel() > most:
        raise AnalysisError(f"the patchwork has inputs of shape {one_line(str(list(shape)), 80)}; do not load this file")
    return torch.zeros(() if told.get("single") else (EXAMPLES, *shape), dtype=kind)


def told_cut(one: Cut) -> dict[str, Any]:
    """A cut as JSON has it."""
    return {"name": one.name, "shape": list(one.shape), "axis": one.axis, "group": one.group}


def _cut(told: Mapping[str, Any]) -> Cut:
    shape, axis = _shape(told["shape"]), _whole(told["axis"])
    if not 0 <= axis < len(shape):
        raise AnalysisError(f"the patchwork has a cut of shape {list(shape)} with neurons along dimension {axis}; build it anew")
    return Cut(str(told["name"]), shape, axis, str(told["group"]))


def _shape(told: Any) -> tuple[int, ...]:
    shape = tuple(map(_whole, told))
    if len(shape) > 8 or any(size < 1 for size in shape):
        raise AnalysisError(f"the patchwork has a shape {one_line(str(list(shape)), 80)}; do not load this file")
    return shape


def _piece(told: Sequence[Any]) -> Piece:
    chain, start, stop = told
    return Piece(_whole(chain), _whole(start), None if stop is None else _whole(stop))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{one_line(repr(value), 40)} where a whole number is wanted")
    return value


__all__ = ["EXAMPLES", "NAME", "built", "is_whole", "parts_run", "signature", "told_cut"]
