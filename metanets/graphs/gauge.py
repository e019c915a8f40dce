"""The gauge of positive scales: weights brought to one form, however their neurons are scaled."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import MetanetError
from weightspace.metanets.layout import Layout, Slot


def order(layout: Layout) -> dict[str, tuple[tuple[Slot, int], ...]]:
    """For each group with positive scales the slots that its scales are measured by, with the dimension where each has it.

    A group is measured by what makes it: the slots on which its scale acts with a positive power and all other scales are already
    measured. Matrices come before biases and gains, as these may be all zero; where nothing makes a group, what reads it serves.

    Raises:
        MetanetError: groups are coupled in a circle, so that none can be the first.
    """
    pending = [name for name in layout.groups if any(slot.groups[j] == name for slot in layout.slots for j in active(layout, slot))]
    found: dict[str, tuple[tuple[Slot, int], ...]] = {}
    while pending:
        for is_matrix, is_made in ((True, True), (False, True), (True, False), (False, False)):
            chosen = {name: _measures(layout, name, is_matrix, is_made, found) for name in pending}
            name = next((name for name in pending if chosen[name]), None)
            if name is not None:
                more = _measures(layout, name, False, True, found) if is_matrix and is_made else ()
                found[name] = (*chosen[name], *more)
                pending.remove(name)
                break
        else:
            raise MetanetError(
                f"neuron groups {', '.join(f'{name!r}' for name in pending)} scale each other in a circle, so their scales cannot be measured; "
                "give one of them symmetry none in the spec"
            )
    return found


def active(layout: Layout, slot: Slot) -> list[int]:
    """The dimensions of a slot on which positive scales act."""
    return [j for j, group in enumerate(slot.groups) if layout.groups[group].symmetry == "scale" and slot.exponents[j]]


def _measures(layout: Layout, name: str, is_matrix: bool, is_made: bool, known: Mapping[str, object]) -> tuple[tuple[Slot, int], ...]:
    made = []
    for slot in layout.slots:
        dims = active(layout, slot)
        own = [j for j in dims if slot.groups[j] == name]
        if len(own) == 1 and (len(slot.tips) > 1) == is_matrix and (slot.exponents[own[0]] > 0) == is_made:
            if all(j == own[0] or slot.groups[j] in known for j in dims):
                made.append((slot, own[0]))
    return tuple(made)


def measure(layout: Layout, slots: Mapping[str, Float[Tensor, "networks ... cells"]]) -> dict[str, Float[Tensor, "networks *nodes"]]:
    """A number for each neuron with a positive scale that is multiplied as the neuron is: the norm of the weights that make it.

    0 where these are all zero; such a neuron is silent, if nothing else makes it.
    """
    scales: dict[str, Tensor] = {}
    for name, measures in order(layout).items():
        squares: list[Tensor] = []
        for slot, dim in measures:
            chain, power = slot.chain(dim), slot.exponents[dim]
            values = unscaled(layout, slot, slots[slot.key], scales)
            others = [j + 1 for j in range(len(slot.groups)) if j not in chain]
            total = values.square().sum((*others, values.ndim - 1))
            kept = sorted(chain)
            total = total.permute(0, *(kept.index(j) + 1 for j in chain))
            squares.append(_power(total, 1 / abs(power)))
        total = torch.stack(squares).sum(0)
        scales[name] = _power(total, 0.5 if measures[0][0].exponents[measures[0][1]] > 0 else -0.5)
    return scales


def unscaled(layout: Layout, slot: Slot, values: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
    """Divide a slot's values, channels or cells last, by the scales that act on it, as far as they are known."""
    return _times(layout, slot, values, scales, -1)


def scaled(layout: Layout, slot: Slot, values: Tensor, scales: Mapping[str, Tensor]) -> Tensor:
    """Multiply values of a slot, channels last, by the scales that act on it; so they move as the weights do."""
    return _times(layout, slot, values, scales, 1)


def _times(layout: Layout, slot: Slot, values: Tensor, scales: Mapping[str, Tensor], sign: int) -> Tensor:
    for j in active(layout, slot):
        if slot.groups[j] in scales:
            values = values * _power(_along(scales[slot.groups[j]], slot.chain(j), len(slot.groups)), sign * slot.exponents[j])[..., None]
    return values


def _along(scale: Tensor, dims: Sequence[int], ndim: int) -> Tensor:
    """Lay (networks, *nodes) along those dimensions of a slot that index the nodes."""
    at = sorted(range(len(dims)), key=lambda k: dims[k])
    shape = [1] * ndim
    for k in at:
        shape[dims[k]] = scale.shape[k + 1]
    return scale.permute(0, *(k + 1 for k in at)).reshape(len(scale), *shape)


def _power(values: Tensor, power: float | int) -> Tensor:
    """A power, of zero always zero: what a silent neuron is multiplied by on either side."""
    is_zero = values == 0
    return torch.where(is_zero, torch.zeros_like(values), torch.where(is_zero, torch.ones_like(values), values) ** power)


__all__ = ["active", "measure", "order", "scaled", "unscaled"]
