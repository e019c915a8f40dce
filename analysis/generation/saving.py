"""Generators as checkpoints: their tensors, with a recipe that says how they are built again."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor

from weightspace import provenance
from weightspace.analysis.budget import Budget
from weightspace.analysis.generation.fans import Fan
from weightspace.analysis.generation.fitting import UNMAKEABLE, make
from weightspace.analysis.generation.generator import WeightGenerator, generators
from weightspace.analysis.generation.target import Target
from weightspace.checkpoint import Checkpoint
from weightspace.dtypes import dtype
from weightspace.errors import GenerationError, WeightSpaceError, one_line
from weightspace.formats import open_checkpoint
from weightspace.formats.safetensors import save
from weightspace.spec import SymmetrySpec

DIGEST = "recipe.digest"
"""The name of the tensor that says what the recipe was."""

CONSTANT = "constant."
"""What the names of tensors begin with that go into every network as they are."""

HELD, REACH = 4, 1000
"""Parameters of a network for each value that a generator's file holds, at most: where it keeps some for each, and where it makes any size."""

WORK = 64
"""Values that are computed on the way, for each that a file holds, when a generator is built."""


def checkpoint_of_generator(fitted: WeightGenerator) -> Checkpoint:
    """A generator as a checkpoint, to be catalogued; its parents are the networks that it learned from."""
    made = Checkpoint.of(_tensors(fitted))
    return Checkpoint(made.info, made.storages, made.format, recipe=fitted.recipe, parents=fitted.parents)


def save_generator(fitted: WeightGenerator, path: str | Path) -> Path:
    """Save a generator as safetensors, its recipe and parents in the metadata."""
    return save(_tensors(fitted), Path(path), provenance.stated(fitted.recipe, fitted.parents))


def load_generator(source: str | Path | Checkpoint, *, allow: Collection[str] = ()) -> WeightGenerator:
    """Load a generator that `save_generator` saved, or that lies in a catalog.

    Args:
        source: a file, or what `ws.open` returned.
        allow: code of one's own that it may run, as `module:function`: an encoder that it was fitted with.

    Raises:
        FormatError: the file cannot be read.
        GenerationError: it holds no generator, one that cannot be built here, or one that names code which is not allowed.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(Path(source))
    recipe, parents = checkpoint.recipe, checkpoint.parents
    if recipe is None:
        recipe, parents = provenance.told(checkpoint.metadata)
    where = checkpoint.path or "this checkpoint"
    if not recipe or recipe.get("kind") != "generator":
        raise GenerationError(f"'{where}' holds no generator; give a model that 'weightspace generate' fitted")
    try:
        _expect_harmless(recipe, checkpoint, allow)
        with torch.random.fork_rng(devices=[]):  # first parameters are drawn, and then replaced
            made = make(recipe["generator"], _target(recipe["target"], checkpoint), recipe["condition_shape"], dict(recipe["settings"]))
        own = {name: checkpoint[name] for name in checkpoint.info if not name.startswith((CONSTANT, DIGEST))}
        _take(made, own)
    except WeightSpaceError:
        raise
    except (*UNMAKEABLE, KeyError) as error:
        raise GenerationError(
            f"the generator in '{where}' cannot be built again ({one_line(str(error), 200)}); fit it with this version"
        ) from error
    made.recipe, made.parents = recipe, parents
    return made.eval()


def _expect_harmless(recipe: Mapping[str, Any], checkpoint: Checkpoint, allow: Collection[str]) -> None:
    """See that building a generator runs no code that its file names, and that neither this nor drawing from it is out of proportion to it.

    Raises:
        GenerationError: it would.
    """
    kind, settings = generators[recipe["generator"]], dict(recipe["settings"])
    for key, value in settings.items():
        if isinstance(value, str) and ":" in value and value not in allow:
            raise GenerationError(
                f"the generator names code, {key}='{one_line(value, 120)}'; look at it, and allow it by that name if it is yours"
            )
    held = sum(info.numel for info in checkpoint.info.values())
    reach = held * (REACH if kind.takes & {"size", "architecture"} else HELD)
    for what, shape in _sizes(recipe):
        if not _is_shape(shape) or math.prod(shape) > reach:
            raise GenerationError(
                f"{what} of shape {one_line(repr(shape), 80)}, and the generator's file holds {held:,} values; fit it again"
            )
    too_many = GenerationError("the generator's settings ask for far more values than its file holds; fit it again")
    with Budget(WORK * held + 100_000, too_many), torch.device("meta"), torch.random.fork_rng(devices=[]):  # shapes alone
        built = make(kind.name, _target(recipe["target"], None), recipe["condition_shape"], settings)
    claimed = sum(tensor.numel() for tensor in built.state_dict().values())
    if claimed > held:
        raise GenerationError(f"the generator's settings ask for {claimed:,} values, but its file holds {held:,}; fit it again")


def _sizes(recipe: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What a recipe tells of sizes: of all tensors together, of the condition, of the neuron groups."""
    target = _target(recipe["target"], None)
    shapes = [*target.shapes.values()]
    strange = next((shape for shape in shapes if not _is_shape(shape)), None)
    whole = [sum(map(math.prod, shapes))] if strange is None else list(strange)
    groups = [] if target.spec is None else [[group.size] for group in target.spec.groups.values()]
    asked = [] if recipe["condition_shape"] is None else [("conditions", recipe["condition_shape"])]
    return [("a network", whole), *asked, *(("a neuron group", group) for group in groups)]


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, Sequence) and all(isinstance(size, int) and size >= 0 for size in shape)


def _tensors(fitted: WeightGenerator) -> dict[str, Tensor]:
    own = {name: tensor.detach() for name, tensor in fitted.state_dict().items()}
    digest = blake3(json.dumps(fitted.recipe, sort_keys=True).encode()).digest()
    own[DIGEST] = torch.tensor(list(digest), dtype=torch.uint8)  # so that generators of other settings are other models
    return own | {f"{CONSTANT}{name}": tensor for name, tensor in fitted.target.constants.items()}


def _take(made: WeightGenerator, own: dict[str, Tensor]) -> None:
    """Load a state; buffers and parameters that fitting gave their size are given it again."""
    for name, tensor in [*made.named_buffers(), *made.named_parameters()]:
        if name in own and own[name].shape != tensor.shape:
            owner, _, last = name.rpartition(".")
            kind = torch.nn.Parameter if isinstance(tensor, torch.nn.Parameter) else torch.nn.Buffer
            setattr(made.get_submodule(owner), last, kind(torch.empty_like(own[name])))
    made.load_state_dict(own)


def _target(told: Any, checkpoint: Checkpoint | None) -> Target:
    spec = None if told["spec"] is None else SymmetrySpec.from_yaml(told["spec"])
    held = {} if checkpoint is None else {name: checkpoint[name] for name in checkpoint.info if name.startswith(CONSTANT)}
    constants = {name.removeprefix(CONSTANT): tensor for name, tensor in held.items()}
    shapes, aliases, logarithms = {name: tuple(shape) for name, shape in told["shapes"]}, dict(told["aliases"]), told["logarithms"]
    strange = next((name for name in [*aliases.values(), *logarithms] if name not in shapes), None)
    if strange is not None:
        raise GenerationError(
            f"the generator's recipe speaks of a tensor '{one_line(str(strange), 80)}' that it does not make; fit it again"
        )
    fans = {name: Fan(kind, apart) for name, (kind, apart) in told["fans"].items()}
    made = {name: getattr(torch, dtype(of).torch or "") for name, of in told["dtypes"].items()}
    return Target(shapes, constants, spec, aliases, frozenset(logarithms), fans, made)


__all__ = ["checkpoint_of_generator", "load_generator", "save_generator"]
