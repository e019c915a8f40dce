"""Targets, modules and tasks of an architecture at other sizes of its neuron groups."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import nn

from weightspace.analysis.generation.target import Target
from weightspace.errors import GenerationError, WeightSpaceError, one_line
from weightspace.modules import shared_copy
from weightspace.spec import SymmetrySpec
from weightspace.task import Task


def resized(target: Target, sizes: Mapping[str, int]) -> Target:
    """The target at other sizes of some groups.

    Raises:
        GenerationError: its symmetry is not known, or one of its tensors has no row in it.
        UnknownNameError: it has no such group.
        SymmetryError: a size below 0.
    """
    spec = spec_of(target).with_groups(**{group: {"size": size} for group, size in sizes.items()})
    return replace(target, shapes={name: spec.shape(name) for name in target.shapes}, spec=spec)


def spec_of(target: Target) -> SymmetrySpec:
    """The symmetry of a target, with a row for every tensor that is made.

    Raises:
        GenerationError: it is not known, or has no such row.
    """
    if target.spec is None:
        raise GenerationError("the sizes of a target are those of its neuron groups, and its symmetry is not known; give it a spec")
    missing = [name for name in target.shapes if name not in target.spec.tensors]
    if missing:
        raise GenerationError(f"tensor '{missing[0]}' has no row in the target's spec; add one")
    return target.spec


def resized_task(task: Task, target: Target) -> Task:
    """The task for networks of another size: its module takes weights of the target's shapes.

    Layers of torch that keep their sizes as attributes are told the new ones. The module's own weights are placeholders.

    Args:
        task: of a module of the same architecture; it is not changed.
        target: of the other size.

    Raises:
        GenerationError: the module has no tensor of such a name, or does not run at that size.
    """
    module = shared_copy(task.module)
    for name, shape in {**target.shapes, **{alias: target.shapes[owner] for alias, owner in target.aliases.items()}}.items():
        _resize(module, name, shape)
    made = replace(task, module=module)
    try:
        zeros = {name: torch.zeros_like(tensor) for name, tensor in module.state_dict().items()}
        made.loss_of(zeros, next(iter(task.batches)))
    except (WeightSpaceError, RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        sizes = (
            "" if target.spec is None else " with " + ", ".join(f"{g.name} = {g.size}" for g in target.spec.groups.values() if g.is_movable)
        )
        raise GenerationError(
            f"module {type(task.module).__name__} does not run{sizes} ({one_line(str(error), 200)}); "
            "let its code take sizes from its tensors, or leave the group out of those that vary"
        ) from error
    return made


def _resize(module: nn.Module, name: str, shape: tuple[int, ...]) -> None:
    """Put a placeholder of another shape in the place of a tensor, and tell the layer its sizes."""
    owner_name, _, own = name.rpartition(".")
    try:
        owner = module.get_submodule(owner_name)
        tensor = getattr(owner, own)
    except AttributeError:
        raise GenerationError(f"module {type(module).__name__} has no tensor '{name}'; give the task of the target's own module") from None
    if tuple(tensor.shape) == shape:
        return
    placeholder = tensor.detach().new_zeros(()).expand(shape)  # takes no memory
    setattr(owner, own, nn.Parameter(placeholder) if isinstance(tensor, nn.Parameter) else placeholder)
    if own == "weight":
        _tell(owner, tensor.shape, shape)


def _tell(layer: nn.Module, before: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Set the attributes in which a layer of torch keeps the sizes of its weight."""
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = shape
    elif isinstance(layer, nn.Embedding):
        layer.num_embeddings, layer.embedding_dim = shape
    elif isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        layer.normalized_shape = shape
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = shape[0]
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
        layer.num_features = shape[0]
    elif isinstance(layer, nn.modules.conv._ConvNd):
        if 1 < layer.groups == layer.in_channels:  # a kernel for each channel
            layer.groups = layer.groups * shape[0] // before[0]
        out, into = (1, 0) if layer.transposed else (0, 1)
        layer.out_channels, layer.in_channels = shape[out] * (layer.groups if layer.transposed else 1), shape[into]
        layer.in_channels *= 1 if layer.transposed else layer.groups


__all__ = ["resized", "resized_task", "spec_of"]
