"""Generators as checkpoints: their tensors, with a recipe that says how they are built again."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from weightspace import provenance
from weightspace.analysis.generation.fitting import UNMAKEABLE, make
from weightspace.analysis.generation.generator import WeightGenerator
from weightspace.analysis.generation.target import Target
from weightspace.checkpoint import Checkpoint
from weightspace.errors import GenerationError, WeightSpaceError, one_line
from weightspace.formats import open_checkpoint
from weightspace.formats.safetensors import save
from weightspace.spec import SymmetrySpec

CONSTANT = "constant."
"""What the names of tensors begin with that go into every network as they are."""


def checkpoint_of_generator(fitted: WeightGenerator) -> Checkpoint:
    """A generator as a checkpoint, to be catalogued; its parents are the networks that it learned from."""
    made = Checkpoint.of(_tensors(fitted))
    return Checkpoint(made.info, made.storages, made.format, recipe=fitted.recipe, parents=fitted.parents)


def save_generator(fitted: WeightGenerator, path: str | Path) -> Path:
    """Save a generator as safetensors, its recipe and parents in the metadata."""
    return save(_tensors(fitted), Path(path), provenance.stated(fitted.recipe, fitted.parents))


def load_generator(source: str | Path | Checkpoint) -> WeightGenerator:
    """Load a generator that `save_generator` saved, or that lies in a catalog.

    Raises:
        FormatError: the file cannot be read.
        GenerationError: it holds no generator, or one that cannot be built here.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(Path(source))
    recipe, parents = checkpoint.recipe, checkpoint.parents
    if recipe is None:
        recipe, parents = provenance.told(checkpoint.metadata)
    where = checkpoint.path or "this checkpoint"
    if not recipe or recipe.get("kind") != "generator":
        raise GenerationError(f"'{where}' holds no generator; give a model that 'weightspace generate' fitted")
    try:
        made = make(recipe["generator"], _target(recipe["target"], checkpoint), recipe["condition_shape"], dict(recipe["settings"]))
        own = {name: checkpoint[name] for name in checkpoint.info if not name.startswith(CONSTANT)}
        _take(made, own)
    except WeightSpaceError:
        raise
    except (*UNMAKEABLE, KeyError) as error:
        raise GenerationError(
            f"the generator in '{where}' cannot be built again ({one_line(str(error), 200)}); fit it with this version"
        ) from error
    made.recipe, made.parents = recipe, parents
    return made.eval()


def _tensors(fitted: WeightGenerator) -> dict[str, Tensor]:
    own = {name: tensor.detach() for name, tensor in fitted.state_dict().items()}
    return own | {f"{CONSTANT}{name}": tensor for name, tensor in fitted.target.constants.items()}


def _take(made: WeightGenerator, own: dict[str, Tensor]) -> None:
    """Load a state; buffers that fitting gave their size are given it again."""
    for name, buffer in list(made.named_buffers()):
        if name in own and own[name].shape != buffer.shape:
            owner, _, last = name.rpartition(".")
            setattr(made.get_submodule(owner), last, torch.nn.Buffer(torch.empty_like(own[name])))
    made.load_state_dict(own)


def _target(told: Any, checkpoint: Checkpoint) -> Target:
    spec = None if told["spec"] is None else SymmetrySpec.from_yaml(told["spec"])
    constants = {name.removeprefix(CONSTANT): checkpoint[name] for name in checkpoint.info if name.startswith(CONSTANT)}
    return Target({name: tuple(shape) for name, shape in told["shapes"]}, constants, spec, dict(told["aliases"]))


__all__ = ["checkpoint_of_generator", "load_generator", "save_generator"]
