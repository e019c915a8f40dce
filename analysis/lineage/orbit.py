"""Orbits: models that differ by an order, signs or scales of hidden units, found by invariants and verified by matching."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weightspace.analysis.lineage.sketch import LEVELS, Sketch, flat
from weightspace.analysis.lineage.steps import between
from weightspace.checkpoint import Checkpoint
from weightspace.errors import WeightSpaceError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import Symmetry

VARIED = 32  # distinct magnitudes that a model needs so that equal ones are no chance

Array = np.ndarray[Any, np.dtype[Any]]


def equal_values(sketches: Sequence[Sketch]) -> Iterator[list[int]]:
    """Models whose tensors have the same magnitudes, in whatever order and with whatever signs."""
    found: dict[tuple[int, ...], list[int]] = {}
    for number, sketch in enumerate(sketches):
        varied = (sketch.distinct * (1 - sketch.zeros) * sketch.sizes).sum() if sketch.names else 0
        if varied >= VARIED and sketch.is_finite.all():
            found.setdefault(tuple(sorted(sketch.digests[:, 1].tolist())), []).append(number)
    return (members for members in found.values() if len(members) > 1)


def spec_of(checkpoint: Checkpoint) -> SymmetrySpec | None:
    """The symmetry of a model whose activation nobody told: that of a known family, or of a chain with scales."""
    from weightspace.architectures import spec_for
    from weightspace.inference import infer_spec

    try:
        found = spec_for(checkpoint)
    except WeightSpaceError:
        return None
    if any(group.symmetry != "none" for group in found.movable):
        return found
    try:
        return infer_spec(checkpoint, "relu")
    except WeightSpaceError:
        return found


@dataclass(frozen=True, eq=False)
class Balanced:
    """A model in the one scale of its units that balances what goes in and out.

    Attributes:
        weights: its tensors, balanced.
        spec: whose units may still be permuted.
        profile: quantiles of the magnitudes of its balanced tensors against their norm, and the norms' logarithms.
    """

    weights: Mapping[str, Tensor]
    spec: SymmetrySpec
    profile: Array


def balanced(checkpoint: Checkpoint, spec: SymmetrySpec) -> Balanced | None:
    """Bring a model to balance; none where its weights allow none."""
    from weightspace.analysis.matching import balance
    from weightspace.symmetry import act

    wide = {name: _wide(tensor) for name, tensor in checkpoint.state_dict().items()}
    try:
        weights = act(balance(wide, spec), wide)
    except WeightSpaceError:
        return None
    return Balanced(weights, spec, profile(weights))


def _wide(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def profile(weights: Mapping[str, Tensor]) -> Array:
    """What stays of a model when units are permuted: quantiles of the magnitudes of each tensor."""
    rows = []
    for name in sorted(weights):
        if weights[name].is_floating_point() and weights[name].numel():
            values = np.sort(np.abs(flat(weights[name])))
            norm = float(np.sqrt((values * values).mean())) or 1.0
            rows.append(np.append(values[(LEVELS * (len(values) - 1)).round().astype(np.int64)] / norm, np.log(norm)))
    return np.concatenate(rows) if rows else np.zeros(0)


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """|a - b|^2 / (|a|^2 + |b|^2) over the matrices."""
    names = [name for name, tensor in one.items() if tensor.is_floating_point() and tensor.ndim > 1]
    whole = sum(float(one[name].square().sum() + other[name].square().sum()) for name in names)
    return sum(float((one[name] - other[name]).square().sum()) for name in names) / whole if whole else 1.0


def step_between(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """What lies between two models in one order; see `weightspace.analysis.lineage.steps`."""
    matrices = [name for name, tensor in one.items() if tensor.is_floating_point() and tensor.ndim > 1]
    return between({name: flat(one[name]) for name in matrices}, {name: flat(other[name]) for name in matrices if name in other}, matrices)


def matched(first: Balanced, second: Balanced, generator: torch.Generator | None) -> Symmetry | None:
    """What brings a model's units into the order of another's; none where they cannot be matched."""
    from weightspace.analysis.matching import match

    still = first.spec.with_groups(**{group.name: {"symmetry": "none"} for group in first.spec.movable if group.symmetry == "scale"})
    try:
        return match(first.weights, second.weights, still, generator=generator).element
    except WeightSpaceError:
        return None
