"""Folding the gains of norms into the tensors that read what they scale, so that nothing but the norm stands on a stream.

Ashkboos et al., SliceGPT (arXiv:2401.15024), section 3: the output of a norm without gains turns with its input, so a residual
stream under root-mean-square norms may be turned by any orthogonal matrix once the gains are folded away.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar, cast

import torch
from torch import Tensor

from weightspace.axes import Leaf
from weightspace.checkpoint import Checkpoint, tensor_bytes
from weightspace.errors import SymmetryError
from weightspace.spec import SymmetrySpec
from weightspace.storage import Produced
from weightspace.symmetry import StateDict, spread

Weights = TypeVar("Weights", bound=Checkpoint | StateDict)


def fold(weights: Weights, spec: SymmetrySpec) -> Weights:
    """Multiply every gain of the spec into the tensors that read what it scales, and leave ones in its place.

    The function is kept. A state dict comes back as a new one, a `Checkpoint` as one whose tensors are computed when they are read.

    Raises:
        SymmetryError: a reader has no consumer's side of the gain's group, or is tied to a tensor that the gain does not scale.

    Example:
        >>> spec = SymmetrySpec.parse({"norm": "d", "up": "m d'"}, sizes={"d": 2, "m": 1}, gains={"norm": ["up"]})
        >>> fold({"norm": torch.tensor([2., 3.]), "up": torch.tensor([[1., 1.]])}, spec)
        {'norm': tensor([1., 1.]), 'up': tensor([[2., 3.]])}
    """
    spec.check(weights)
    factors: dict[str, list[str]] = {}
    for gain, readers in spec.gains.items():
        for reader in readers:
            factors.setdefault(reader, []).append(gain)
    for name, owner in spec.aliases.items():
        if owner in factors:
            raise SymmetryError(f"tensor '{name}' is tied to '{owner}', which gain '{factors[owner][0]}' would scale; untie them first")
    changed: dict[str, Callable[[], Tensor]] = {gain: partial(_ones, weights, gain) for gain in spec.gains}
    for reader, gains in factors.items():
        changed[reader] = partial(_scaled, weights, reader, gains, spec)
    if not isinstance(weights, Checkpoint):
        return cast(Weights, {name: changed[name]() if name in changed else tensor for name, tensor in weights.items()})
    storages = dict(weights.storages)
    for name, compute in changed.items():
        storages[name] = Produced(weights.info[name].nbytes, partial(_bytes, compute))
    return cast(Weights, replace(weights, storages=storages, format="memory", path=None, files=(), extras={}))


def _ones(weights: Checkpoint | StateDict, name: str) -> Tensor:
    return torch.ones_like(weights[name])


def _bytes(compute: Callable[[], Tensor]) -> memoryview:
    return tensor_bytes(compute())


def _scaled(weights: Checkpoint | StateDict, name: str, gains: list[str], spec: SymmetrySpec) -> Tensor:
    """One reader with its gains multiplied in, on the consumer's side of their group."""
    out = weights[name].clone()
    for gain in gains:
        values = weights[gain]
        (axis,) = spec.axes(gain)
        group = axis.group if isinstance(axis, Leaf) else str(axis)
        found = False
        for block in spec.blocks(name, out):
            for j in block.where(group):
                if cast(Leaf, block.terms[j]).dual:
                    block.view.mul_(spread(values.to(out), block.view.dim(), (j,)))
                    found = True
        if not found:
            raise SymmetryError(f"gain '{gain}' scales group '{group}', which tensor '{name}' does not read; correct the spec's gains")
    return out
