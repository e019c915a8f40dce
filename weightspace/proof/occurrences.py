"""Single occurrences of neuron groups: a group on one side of one axis of one tensor, moved alone or made fixed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from weightspace.axes import Axis, Fixed, Leaf, Product, Sum, canonical, leaves
from weightspace.spec import MATRIX, Continuous, NeuronGroup, SymmetrySpec
from weightspace.symmetry import Action, StateDict, Symmetry, act_on_tensor, random


@dataclass(frozen=True, order=True)
class Occurrence:
    """Where a group stands.

    Attributes:
        tensor: the tensor that has the row; tied ones move with it.
        axis: which of its axes.
        group: the group.
        is_dual: whether it stands there on the consumer's side.
    """

    tensor: str
    axis: int
    group: str
    is_dual: bool

    def __str__(self) -> str:
        return f"'{self.group}{chr(39) * self.is_dual}' on axis {self.axis} of '{self.tensor}'"


def occurrences(spec: SymmetrySpec) -> list[Occurrence]:
    """All places where an element of a spec moves something, tied tensors once."""

    def moves(leaf: Leaf) -> bool:
        group = spec.groups[leaf.group]
        return group.is_movable and (leaf.power != 0 or (group.kind == "permutable" and group.size > 1))

    return _places(spec, moves)


def places_of(spec: SymmetrySpec, group: str) -> list[Occurrence]:
    """All places where a group stands, whether or not anything moves it there."""
    return _places(spec, lambda leaf: leaf.group == group)


def _places(spec: SymmetrySpec, wanted: Callable[[Leaf], bool]) -> list[Occurrence]:
    found = {
        Occurrence(name, j, leaf.group, leaf.dual): None
        for name, axes in spec.tensors.items()
        for j, axis in enumerate(axes)
        for leaf in leaves(axis)
        if wanted(leaf)
    }
    return list(found)


def replaced(axis: Axis, change: Callable[[Leaf], Axis]) -> Axis:
    """An axis with each of its leaves replaced by what a function makes of it, otherwise of the same form."""
    if isinstance(axis, Leaf):
        return change(axis)
    if isinstance(axis, Product):
        return Product(tuple(replaced(part, change) for part in axis.factors))
    return Sum(tuple(replaced(part, change) for part in axis.terms)) if isinstance(axis, Sum) else axis


def alone(spec: SymmetrySpec, at: Occurrence, symmetry: Continuous | None = None) -> SymmetrySpec:
    """A spec in which a group stands at one occurrence only and nothing else moves.

    Where another symmetry is given for the group, it stands there on the plain side and to the first power.
    """
    parents = {parent.name for parent in spec.parents(at.group)}

    def fixed(j: int, leaf: Leaf) -> Axis:
        stays = leaf.group in parents or (leaf.group == at.group and j == at.axis and leaf.dual == at.is_dual)
        if not stays:
            return Fixed(spec.groups[leaf.group].size)
        return leaf if leaf.group == at.group and symmetry is None else Leaf(leaf.group)

    axes = tuple(replaced(axis, partial(fixed, j)) for j, axis in enumerate(spec.tensors[at.tensor]))
    group = spec.groups[at.group]
    groups = {**{name: spec.groups[name] for name in parents}, at.group: group}
    if symmetry is not None:
        groups[at.group] = replace(group, symmetry=symmetry)
    return SymmetrySpec(groups, {at.tensor: axes})


def moved_alone(spec: SymmetrySpec, at: Occurrence, state: StateDict, generator: torch.Generator) -> dict[str, Tensor]:
    """A state dict in which one occurrence alone has moved, under all names of its tensor."""
    part = alone(spec, at)
    element = Symmetry(part, {at.group: stirring(part, at.group, generator)})
    names = [at.tensor, *(name for name, owner in spec.aliases.items() if owner == at.tensor and name in state)]
    made: dict[int, Tensor] = {}
    for name in names:
        if id(state[name]) not in made:
            made[id(state[name])] = act_on_tensor(element, at.tensor, state[name])
    return {**state, **{name: made[id(state[name])] for name in names}}


def stirring(spec: SymmetrySpec, name: str, generator: torch.Generator) -> Action:
    """A random action that leaves no member where it was: a cycle through all, at least one sign, scales away from one."""
    group, lead = spec.groups[name], tuple(parent.size for parent in spec.parents(name))
    drawn = random(spec, generator).action(name)
    if group.symmetry in MATRIX:
        return drawn if group.size > 1 or group.symmetry == "linear" else replace(drawn, matrix=-torch.ones_like(drawn.matrix))  # type: ignore[arg-type]
    index, diagonal = drawn.index, drawn.diagonal
    if group.kind == "permutable":
        order = torch.rand(*lead, group.size, generator=generator, dtype=torch.float64).argsort(-1)
        index = torch.empty_like(order).scatter_(-1, order, order.roll(1, -1))
    if diagonal is not None:
        diagonal = -diagonal.abs() if group.symmetry == "sign" and group.size == 1 else diagonal.clone()
        diagonal[..., :1] = -1 if group.symmetry == "sign" else 2 * diagonal[..., :1].abs().clamp(min=1)
    return Action(index, diagonal)


def swaps(spec: SymmetrySpec, generator: torch.Generator) -> Symmetry:
    """An element that exchanges two random members of every permutable group, and does nothing else.

    Small groups are the identity, or a turn of a ring, in too many uniform draws; exchanges generate all permutations.
    """
    actions: dict[str, Action] = {}
    for group in spec.movable:
        if group.kind == "permutable" and group.size > 1 and group.symmetry not in MATRIX:
            lead = tuple(parent.size for parent in spec.parents(group.name))
            pair = torch.rand(*lead, group.size, generator=generator, dtype=torch.float64).argsort(-1)[..., :2]
            index = torch.arange(group.size).expand(*lead, group.size).clone().scatter_(-1, pair, pair.flip(-1))
            actions[group.name] = Action(index)
    return Symmetry(spec, actions)


def without(spec: SymmetrySpec, at: Occurrence) -> SymmetrySpec:
    """The spec with one occurrence made fixed, together with groups there that are counted by it."""

    def fixed(j: int, leaf: Leaf) -> Axis:
        is_it = leaf.group == at.group and j == at.axis and leaf.dual == at.is_dual
        is_child = any(parent.name == at.group for parent in spec.parents(leaf.group))
        return Fixed(spec.groups[leaf.group].size) if is_it or is_child else leaf

    axes = tuple(canonical(replaced(axis, partial(fixed, j))) for j, axis in enumerate(spec.tensors[at.tensor]))
    return tidy(replace(spec, tensors={**spec.tensors, at.tensor: axes}, proved=False))


def mixed_when_folded(spec: SymmetrySpec) -> dict[str, Continuous]:
    """The groups that a matrix may mix only where gains are folded away, each with its symmetry."""
    scaled = {leaf.group for gain in spec.gains for axis in spec.axes(gain) for leaf in leaves(axis)}
    return {name: spec.groups[name].symmetry for name in scaled if spec.groups[name].symmetry in MATRIX}


def tidy(spec: SymmetrySpec) -> SymmetrySpec:
    """The spec without groups that stand nowhere."""
    used = {leaf.group for axes in spec.tensors.values() for axis in axes for leaf in leaves(axis)}
    used |= {parent.name for name in used for parent in spec.parents(name)}
    groups: Mapping[str, NeuronGroup] = {name: group for name, group in spec.groups.items() if name in used}
    return replace(spec, groups=groups)
