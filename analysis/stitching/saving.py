"""Patchworks as checkpoints: the tensors that their routes run through, with a recipe that says how they are built again."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor, nn

from weightspace import provenance
from weightspace.analysis.stitching.chain import Chain
from weightspace.analysis.stitching.origin import Origin
from weightspace.analysis.stitching.patchwork import Patchwork, Route
from weightspace.analysis.stitching.rebuilding import NAME, built, is_whole, parts_run, signature, told_cut
from weightspace.checkpoint import Checkpoint
from weightspace.errors import DAMAGE, AnalysisError, WeightSpaceError, one_line
from weightspace.formats import open_checkpoint
from weightspace.formats.safetensors import save
from weightspace.modules import Part, module_builders, task_builders
from weightspace.task import Task, task_like

DIGEST = "recipe.digest"
"""The name of the tensor that says what the recipe was: with other routes through the same tensors it is another model."""

REST = "rest"
"""What the names of tensors begin with that an anchor has and its parts do not: counters, and what its module does not run."""


@dataclass(frozen=True, eq=False)
class Member:
    """A network of a patchwork as it was before.

    Attributes:
        origin: how its module is built again.
        module: with its weights.
        name: that it goes by.
        id: of the model, in hex; empty where it is in no catalog.
    """

    origin: Origin
    module: nn.Module = field(repr=False)
    name: str = ""
    id: str = ""


@dataclass(frozen=True, eq=False)
class Kept:
    """A patchwork that was saved.

    Attributes:
        patchwork: with its weights, in eval mode.
        recipe: how it was made.
        parents: ids of the networks that it was made of.
        names: of these networks, in the order of the patchwork's chains.
    """

    patchwork: Patchwork
    recipe: Mapping[str, Any]
    parents: tuple[str, ...]
    names: tuple[str, ...]


def checkpoint_of_patchwork(
    patchwork: Patchwork, members: Sequence[Member], example: Any, *, told: Mapping[str, Any] | None = None
) -> Checkpoint:
    """A patchwork as a checkpoint, to be catalogued; its parents are the networks that its routes run through.

    Its tensors go by the names that they have in the patchwork, `chains.0.parts.1.` and then that of the network's own module, so that tasks and
    measures find them there. Parts that no route runs through are left out.

    Args:
        patchwork: made of chains that were cut by `Chain.of`.
        members: its networks, in the order of its chains.
        example: a batch of the task that they were cut on.
        told: further entries of the recipe: seed, training, what was measured.

    Raises:
        AnalysisError: chains of a user's own blocks, inputs that are no tensors, or a recipe that is too long.
    """
    chains, layers = _used(patchwork)
    for at in chains:
        if any(not isinstance(part, torch.fx.GraphModule | nn.Identity) for part in patchwork.chain(at).parts):
            raise AnalysisError(
                "a patchwork of blocks of your own cannot be built again from a file; cut the network by Chain.of, or pickle it"
            )
    recipe = {
        **(told or {}),
        "kind": "stitch",
        "name": NAME,
        "inputs": signature(example),
        "chains": [_described(members[at], patchwork.chain(at)) for at in chains],
        "stitches": [_stitch_told(patchwork, at) for at in layers],
        "routes": [_route_told(route, chains, layers) for route in patchwork.routes],
        "route": patchwork.route,
    }
    text = json.dumps(recipe, sort_keys=True)
    if len(text) > provenance.MAX_CHARACTERS:
        raise AnalysisError(f"a patchwork of {len(patchwork.routes):,} routes has a recipe too long to keep; keep fewer routes")
    tensors = dict(_tensors(patchwork, members, chains, layers))
    tensors[DIGEST] = torch.tensor(list(blake3(text.encode()).digest()), dtype=torch.uint8)
    made = Checkpoint.of(tensors)
    parents = tuple(dict.fromkeys(members[at].id for at in chains if members[at].id))
    return Checkpoint(made.info, made.storages, made.format, recipe=json.loads(text), parents=parents)


def save_patchwork(
    patchwork: Patchwork, members: Sequence[Member], example: Any, path: str | Path, *, told: Mapping[str, Any] | None = None
) -> Path:
    """Save a patchwork as safetensors, recipe and parents in the metadata; see `checkpoint_of_patchwork`."""
    return write(checkpoint_of_patchwork(patchwork, members, example, told=told), path)


def write(checkpoint: Checkpoint, path: str | Path) -> Path:
    """Write what `checkpoint_of_patchwork` or `anchor` gave."""
    return save(checkpoint, Path(path), provenance.stated(checkpoint.recipe or {}, checkpoint.parents))


def load_patchwork(source: str | Path | Checkpoint, *, allow: Collection[str] = ()) -> Kept:
    """Load a patchwork that `save_patchwork` saved, or that lies in a catalog. Nothing in the file is executed.

    Args:
        source: a file, or what `ws.open` returned.
        allow: functions of one's own that build its networks, as `module:function`, and may run.

    Raises:
        FormatError: the file cannot be read.
        AnalysisError: it holds no patchwork, one that cannot be built here, or one that names code which is not allowed.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(Path(source))
    recipe, parents = checkpoint.recipe, checkpoint.parents
    if recipe is None:
        recipe, parents = provenance.told(checkpoint.metadata)
    where = one_line(str(checkpoint.path or "this checkpoint"), 200)
    if not recipe or recipe.get("name") != NAME:
        raise AnalysisError(f"'{where}' holds no stitched network; give one that 'weightspace stitch build' made")
    try:
        made = built(recipe, allow=allow, held=checkpoint.num_params)
        state, own = made.state_dict(), {name: one for name, one in checkpoint.info.items() if name != DIGEST}
        strange = sorted(state.keys() ^ own.keys()) or [name for name in state if tuple(state[name].shape) != own[name].shape]
        if strange:
            raise AnalysisError(
                f"tensor '{one_line(strange[0], 80)}' of the file is not as its recipe has it; it was damaged, build it again"
            )
        made.load_state_dict({name: tensor for name, tensor in checkpoint.state_dict().items() if name != DIGEST})
        names = tuple(str(one.get("name", at)) for at, one in enumerate(recipe["chains"]))
    except WeightSpaceError:
        raise
    except (*DAMAGE, RuntimeError) as error:
        raise AnalysisError(f"the patchwork in '{where}' cannot be built again ({one_line(str(error), 200)}); build it anew") from error
    return Kept(made.eval(), recipe, parents, names)


def anchor(kept: Kept, chain: int, *, allow: Collection[str] = (), parent: str = "") -> Checkpoint:
    """One network out of a patchwork, with its own names: bit for bit what went in, where it was not trained.

    Args:
        kept: what `load_patchwork` gave.
        chain: index of the network; one of which a route runs the whole.
        allow: see `load_patchwork`.
        parent: id of the patchwork in the catalog.

    Raises:
        AnalysisError: there is no such network, or a part of it is not there.
    """
    chains = kept.recipe["chains"]
    if not 0 <= chain < len(chains):
        raise AnalysisError(f"expected a network from 0 to {len(chains) - 1}, found {chain}; name one that there is")
    if not is_whole(kept.patchwork.routes, chain):
        raise AnalysisError(
            f"no route runs the whole of '{one_line(kept.names[chain], 80)}', so that parts of it are not here; "
            f"its own model is {one_line(str(chains[chain].get('id') or 'in no catalog'), 64)}"
        )
    origin = Origin.told(chains[chain]["origin"])
    known = kept.patchwork.chain(chain).weights()
    rest = {name: tensor for name, tensor in kept.patchwork.get_submodule(f"{REST}.{chain}").state_dict().items()}
    tensors = {name: known[own] if own in known else rest[name] for name, own in _aliases(origin.module(allow=allow), known).items()}
    recipe = {"kind": "anchor", "chain": chain, **({"like": dict(origin.recipe)} if origin.recipe is not None else {})}
    made = Checkpoint.of(tensors)
    return Checkpoint(made.info, made.storages, made.format, recipe=recipe, parents=(parent,) if parent else ())


def _used(patchwork: Patchwork) -> tuple[list[int], list[int]]:
    """The chains and the stitches that routes run through."""
    chains = {piece.chain for route in patchwork.routes for piece in route.pieces}
    return sorted(chains), sorted({at for route in patchwork.routes for at in route.stitches})


def _tensors(patchwork: Patchwork, members: Sequence[Member], chains: Sequence[int], layers: Sequence[int]) -> Iterator[tuple[str, Tensor]]:
    """Tensors by the names that they have once chains and stitches which no route runs through are gone."""
    running = parts_run(patchwork.routes, [len(patchwork.chain(at).cuts) for at in range(len(patchwork.chains))])
    for at, chain in enumerate(chains):
        for part in sorted(running[chain]):
            for name, tensor in patchwork.chain(chain).parts[part].state_dict().items():
                yield f"chains.{at}.parts.{part}.{name}", tensor.detach()
        if is_whole(patchwork.routes, chain):
            known = patchwork.chain(chain).weights()
            state = members[chain].module.state_dict()
            for name, own in _aliases(members[chain].module, known).items():
                if own not in known:
                    yield f"{REST}.{at}.{name}", state[name].detach()
    for at, layer in enumerate(layers):
        for name, tensor in patchwork.stitches[layer].state_dict().items():
            yield f"stitches.{at}.{name}", tensor.detach()


def _aliases(module: nn.Module, known: Collection[str]) -> dict[str, str]:
    """For each name of a module's state, the name of the same tensor that is known, or itself."""
    state = {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}
    first = {id(tensor): name for name, tensor in state.items() if name in known}
    return {name: name if name in known else first.get(id(tensor), name) for name, tensor in state.items()}


def _described(member: Member, chain: Chain) -> dict[str, Any]:
    return {"origin": member.origin.to_json(), "name": member.name, "id": member.id, "cuts": [told_cut(one) for one in chain.cuts]}


def _stitch_told(patchwork: Patchwork, at: int) -> dict[str, Any]:
    stitch: Any = patchwork.stitches[at]
    bias = "places" if stitch.bias.ndim == 2 else "units"
    return {"source": told_cut(stitch.bridge.source), "target": told_cut(stitch.bridge.target), "bias": bias}


def _route_told(route: Route, chains: Sequence[int], layers: Sequence[int]) -> dict[str, Any]:
    return {
        "pieces": [[chains.index(one.chain), one.start, one.stop] for one in route.pieces],
        "stitches": [layers.index(at) for at in route.stitches],
    }


def _build_task(module: nn.Module, recipe: Mapping[str, Any], part: Part = "test") -> Task:
    """Judge a patchwork by the task of a network that it is made of: the first that comes from a population, those which routes end in before others.

    Raises:
        TaskError: none does.
    """
    from dataclasses import replace

    ends = [route["pieces"][-1][0] for route in recipe["routes"]]
    for at in dict.fromkeys([*ends, *range(len(recipe["chains"]))]):
        own = recipe["chains"][at]["origin"].get("recipe")
        if own is not None and own.get("name") in task_builders:
            return replace(task_like(own, part), module=module)
    return task_like({}, part)  # says that nothing is known


module_builders.add(NAME, built)
task_builders.add(NAME, _build_task)

__all__ = ["DIGEST", "REST", "Kept", "Member", "anchor", "checkpoint_of_patchwork", "load_patchwork", "save_patchwork", "write"]
