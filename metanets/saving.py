"""Metanets and predictors as files: safetensors whose metadata says what they are built from."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from weightspace.checkpoint import Checkpoint
from weightspace.errors import MetanetError, one_line
from weightspace.formats import open_checkpoint
from weightspace.formats.safetensors import save
from weightspace.metanets.metanet import UNBUILDABLE, MetaNet, build
from weightspace.metanets.predictor import NET, Predictor
from weightspace.spec import SymmetrySpec

PREDICTOR = "predictor."
"""What the names of a predictor's own tensors begin with, in a file that also holds its metanet."""


def save_metanet(net: MetaNet, path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Save a metanet as safetensors; what it was built with is in the file's metadata.

    Args:
        net: built by `build`.
        path: where to.
        metadata: of one's own, text by text.
    """
    tensors = {name: tensor.detach() for name, tensor in net.state_dict().items()}
    return save(tensors, Path(path), {"metanet": _recipe(net), **(metadata or {})})


def load_metanet(source: str | Path | Checkpoint) -> MetaNet:
    """Load a metanet that `save_metanet` saved, or that of a predictor.

    Raises:
        FormatError: the file cannot be read.
        MetanetError: it holds no metanet, or one of settings that are not known here.
    """
    return _built(source if isinstance(source, Checkpoint) else open_checkpoint(Path(source)))


def _recipe(net: MetaNet) -> str:
    """What a metanet was built with, as JSON."""
    specs = [spec.to_dict() for spec in net.recipe.specs]
    return json.dumps({"name": net.recipe.name, "settings": dict(net.recipe.settings), "specs": specs})


def _built(checkpoint: Checkpoint) -> MetaNet:
    """Build the metanet that a checkpoint holds, and load it.

    Raises:
        MetanetError: it holds no metanet, or one of settings that are not known here.
    """
    where, text = checkpoint.path or "the checkpoint", checkpoint.metadata.get("metanet")
    if text is None:
        raise MetanetError(f"'{where}' holds no metanet; give a file that save_metanet or 'weightspace train-metanet' wrote")
    shapes = {name: tuple(info.shape) for name, info in checkpoint.info.items() if not name.startswith(PREDICTOR)}
    try:
        recipe = json.loads(text) if isinstance(text, str) else text
        name, settings = recipe["name"], recipe["settings"]
        specs = [SymmetrySpec.from_yaml(json.dumps(spec)) for spec in recipe["specs"]]
        _expect_no_larger(settings, sum(math.prod(shape) for shape in shapes.values()))
        with torch.device("meta"):  # shapes alone: what the file claims is compared with what it holds before anything is allocated
            claimed = {key: tuple(tensor.shape) for key, tensor in build(name, specs, **settings).state_dict().items()}
        net = build(name, specs, **settings) if claimed == shapes else None
    except UNBUILDABLE as error:
        raise MetanetError(
            f"the metanet in '{where}' cannot be built again ({one_line(str(error), 200)}); save it with this version"
        ) from error
    if net is None:
        raise MetanetError(f"the metanet in '{where}' has other tensors than '{name}' has here; train it again")
    net.load_state_dict({name: checkpoint[name] for name in shapes})
    return net.eval()


def _expect_no_larger(settings: Mapping[str, Any], values: int) -> None:
    """Refuse settings that a file cannot be of: a width, or a number of layers, is never above the number of its values.

    Raises:
        ValueError: one is.
    """
    for name, setting in settings.items():
        for one in setting if isinstance(setting, list) else [setting]:
            if isinstance(one, int) and abs(one) > values:
                raise ValueError(f"setting {name}={one!r}, but the file holds {values:,} values")


def save_predictor(predictor: Predictor, path: str | Path, metadata: Mapping[str, str] | None = None) -> Path:
    """Save a predictor as safetensors; `load_metanet` reads its metanet from the same file.

    Args:
        predictor: what to save.
        path: where to.
        metadata: of one's own, text by text.
    """
    tensors = {name.removeprefix(NET) if name.startswith(NET) else f"{PREDICTOR}{name}": t for name, t in predictor.state_dict().items()}
    told = {"metanet": _recipe(predictor.net), "predictor": json.dumps(predictor.head_recipe, sort_keys=True), **(metadata or {})}
    return save({name: tensor.detach() for name, tensor in tensors.items()}, Path(path), told)


def load_predictor(source: str | Path | Checkpoint) -> Predictor:
    """Load a predictor that `save_predictor` saved.

    Raises:
        FormatError: the file cannot be read.
        MetanetError: it holds no predictor.
    """
    checkpoint = source if isinstance(source, Checkpoint) else open_checkpoint(Path(source))
    text = checkpoint.metadata.get("predictor")
    where = checkpoint.path or source
    if text is None:
        raise MetanetError(f"'{where}' holds no predictor; give a file that 'weightspace train-metanet' wrote")
    net = _built(checkpoint)
    own = {name.removeprefix(PREDICTOR): checkpoint[name] for name in checkpoint.info if name.startswith(PREDICTOR)}
    try:
        recipe = json.loads(text) if isinstance(text, str) else text
        with torch.device("meta"):  # shapes alone, as in `_built`
            claimed = Predictor(net, recipe["head"], covariates=recipe["covariates"], **recipe["settings"]).own_shapes
        fits = {name: shape for name, shape in claimed.items() if name != "residuals"} == {
            name: tuple(tensor.shape) for name, tensor in own.items() if name != "residuals"
        }
        made = Predictor(net, recipe["head"], covariates=recipe["covariates"], **recipe["settings"]) if fits else None
    except UNBUILDABLE as error:
        raise MetanetError(
            f"the predictor in '{where}' cannot be built again ({one_line(str(error), 200)}); save it with this version"
        ) from error
    if made is None or "residuals" not in own or own["residuals"].dim() != 1:
        raise MetanetError(f"the predictor in '{where}' has other tensors than its head has here; train it again")
    made.residuals = nn.Buffer(torch.zeros_like(own["residuals"]))
    made.load_state_dict(own, strict=False)
    return made.eval()


__all__ = ["load_metanet", "load_predictor", "save_metanet", "save_predictor"]
