"""Elements of an architecture's symmetry group: permutations, signs, scales and matrices that act on its weights.

The convention, once: `w_new = w_old[index]`, then times `diagonal ** exponent`; a matrix acts as `w_new = M @ w_old` along a
plain axis and by its inverse transpose along a dual one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from weightspace import dtypes
from weightspace.action import Action, after, check_action, random_action, read_action, undone
from weightspace.axes import Block, Leaf, leaves
from weightspace.checkpoint import Checkpoint, tensor_bytes
from weightspace.errors import SymmetryError, UnknownNameError
from weightspace.spec import NeuronGroup, SymmetrySpec, place, plane
from weightspace.storage import Produced, Storage

StateDict = Mapping[str, Tensor]
Weights = TypeVar("Weights", bound=Checkpoint | StateDict)


@dataclass(frozen=True, eq=False, repr=False)
class Symmetry:
    """One element of the group that a spec describes.

    Attributes:
        spec: what it is an element of.
        actions: what it does to each group that it moves; groups left out stay as they are.
    """

    spec: SymmetrySpec
    actions: Mapping[str, Action]

    def __post_init__(self) -> None:
        object.__setattr__(self, "actions", MappingProxyType(dict(self.actions)))

    def __reduce__(self) -> tuple[Any, ...]:
        return Symmetry, (self.spec, dict(self.actions))

    def __matmul__(self, other: "Symmetry") -> "Symmetry":
        """The element that acts as `other` first and this one after.

        Raises:
            SymmetryError: the other is no element, or one of another spec.
        """
        if not isinstance(other, Symmetry):
            raise SymmetryError(
                f"expected another element after '@', found {type(other).__name__}; move weights with act(element, weights)"
            )
        if self.spec != other.spec:
            raise SymmetryError("the two elements belong to different specs; compare them with spec.diff")
        made: dict[str, Action] = {}
        for group in self.spec.movable:
            if group.name in self.actions or group.name in other.actions:
                last, first = self.action(group.name), other._moved(group.name, self)
                made[group.name] = after(last, first)
        return Symmetry(self.spec, made)

    def action(self, group: str) -> Action:
        """What the element does to one group, also when that is nothing."""
        return self.actions[group] if group in self.actions else _nothing(self.spec, group)

    def _moved(self, group: str, parents: "Symmetry") -> Action:
        """The action on a group with its parents' members reordered as another element does."""
        mine = self.action(group)
        chain = self.spec.parents(group)
        if not any(p.name in parents.actions for p in chain):
            return mine
        at = _parent_places(parents, chain)
        return mine.each(lambda values: values[at])

    def inverse(self) -> "Symmetry":
        """The element that undoes this one."""
        made: dict[str, Action] = {}
        for group in self.spec.movable:
            if group.name not in self.actions:  # nothing undone is nothing, whatever its parents do
                continue
            action, chain = undone(self.actions[group.name]), self.spec.parents(group.name)
            if any(parent.name in self.actions for parent in chain):
                back = _parent_places(self, chain)
                action = action.each(partial(_put, back))
            made[group.name] = action
        return Symmetry(self.spec, made)

    @property
    def is_identity(self) -> bool:
        """Whether it does nothing at all."""
        return all(action.is_identity for action in self.actions.values())

    def to(self, device: torch.device | str) -> "Symmetry":
        """The same element on another device."""
        return Symmetry(self.spec, {name: action.to(device) for name, action in self.actions.items()})

    def tensors(self) -> dict[str, Tensor]:
        """The element as named tensors, `GROUP.index`, `GROUP.diagonal` and `GROUP.matrix`, to be saved beside its spec."""
        parts = (
            (f"{name}.{part}", getattr(action, part)) for name, action in self.actions.items() for part in ("index", "diagonal", "matrix")
        )
        return {name: tensor for name, tensor in parts if tensor is not None}

    def _repr_html_(self) -> str:
        """A table of the groups for notebooks."""
        from weightspace import html

        rows = (
            {
                "group": name,
                "moves": action.index.numel()
                - int((action.index == torch.arange(action.index.shape[-1], device=action.index.device)).sum()),
                "of": action.index.numel(),
                "with": "a matrix" if action.matrix is not None else "a diagonal" if action.diagonal is not None else "",
            }
            for name, action in self.actions.items()
        )
        return html.page("Symmetry", html.rows(rows, len(self.actions)))

    def __repr__(self) -> str:
        moved = []
        for name, action in self.actions.items():
            still = int((action.index == torch.arange(action.index.shape[-1], device=action.index.device)).sum())
            extra = " and a matrix" if action.matrix is not None else " and a diagonal" if action.diagonal is not None else ""
            moved.append(f"{name}: moves {action.index.numel() - still} of {action.index.numel()}{extra}")
        return f"<Symmetry: {'; '.join(moved) or 'identity'}>"


def element(spec: SymmetrySpec, actions: Mapping[str, Any]) -> Symmetry:
    """Make an element from an index, an (index, diagonal) pair, a matrix or an `Action` by group, and see that it is one.

    Raises:
        UnknownNameError: the spec has no such group.
        SymmetryError: an action that the group does not have.

    Example:
        >>> spec = SymmetrySpec.parse({"fc.bias": "h"}, sizes={"h": 2})
        >>> act(spec.element({"h": [1, 0]}), {"fc.bias": torch.tensor([1., 2.])})
        {'fc.bias': tensor([2., 1.])}
    """
    if not isinstance(actions, Mapping):
        raise SymmetryError(f"expected actions by group, found {type(actions).__name__}; give a mapping such as {{'h': [1, 0]}}")
    made: dict[str, Action] = {}
    for name, given in actions.items():
        if name not in spec.groups:
            raise UnknownNameError.of("neuron group", name, spec.groups)
        group, lead = spec.groups[name], tuple(parent.size for parent in spec.parents(name))
        action = read_action(group, lead, given)
        check_action(group, lead, action)
        made[name] = action
    return Symmetry(spec, made)


def random(spec: SymmetrySpec, generator: torch.Generator | None = None, *, discrete: bool = False) -> Symmetry:
    """Draw an element: uniform permutations and signs, log-normal scales, uniform angles, well-conditioned matrices.

    Args:
        spec: of what to draw an element.
        generator: source of chance.
        discrete: permutations and signs alone.

    Raises:
        SymmetryError: a seed in place of a generator.
    """
    if not isinstance(generator, torch.Generator | None):
        seeded = f"; give torch.Generator().manual_seed({generator})" if isinstance(generator, int) else "; give one, or nothing"
        raise SymmetryError(f"expected a torch.Generator as the source of chance, found {generator!r}{seeded}")
    return Symmetry(
        spec, {g.name: random_action(g, tuple(p.size for p in spec.parents(g.name)), generator, discrete) for g in spec.movable}
    )


def act(element: Symmetry, weights: Weights) -> Weights:
    """Apply one group element to every axis that its groups index.

    A state dict comes back as a new one, a `Checkpoint` as a `Checkpoint` whose tensors are moved when they are read, one at a
    time. What is computed (scales, matrices) is computed in float32 or wider and rounded once. Tensors of integers have rows
    of integers, or none, and stay as they are.

    Raises:
        SymmetryError, ShapeMismatchError: the weights are not of the element's spec, or it moves an axis of integers.
    """
    if not isinstance(element, Symmetry):
        raise SymmetryError(f"expected an element first, found {type(element).__name__}; call act(element, weights)")
    spec = element.spec
    spec.check(weights)
    moved = {name for name in [*spec.tensors, *spec.aliases] if any(True for _ in _touched(element, name))}
    if isinstance(weights, Checkpoint):
        return cast(Weights, _act_lazily(element, weights, moved))
    made: dict[int, Tensor] = {}
    out: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if name in moved and not tensor.is_floating_point():
            _expect_still(element, name)
            out[name] = tensor
        elif name in moved:
            if id(tensor) not in made:  # one tensor under two names stays one
                made[id(tensor)] = act_on_tensor(element, name, tensor)
            out[name] = made[id(tensor)]
        else:
            out[name] = tensor
    return cast(Weights, out)


def _expect_still(element: Symmetry, name: str) -> None:
    """See that a tensor of integers is not to be moved: it would stay, and the function with it would not."""
    group = next((group for group in _touched(element, name) if not element.actions[group].is_identity), None)
    if group is not None:
        raise SymmetryError(
            f"the element moves group '{group}', an axis of tensor '{name}', which does not hold floats; "
            "convert its values to floats, or write an integer for the axis"
        )


def act_on_tensor(element: Symmetry, name: str, tensor: Tensor) -> Tensor:
    """Apply one group element to one tensor of its spec, into a new tensor."""
    spec = element.spec
    out = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    for new, old in zip(spec.blocks(name, out), spec.blocks(name, tensor), strict=True):
        new.view.copy_(_act_on_block(element, name, old))
    return out


def _act_on_block(element: Symmetry, name: str, block: Block) -> Tensor:
    """Move one block: each group's members in turn, parents before children, who are counted by their parents' new places."""
    spec, values = element.spec, block.view
    order = [j for j, term in enumerate(block.terms) if isinstance(term, Leaf) and term.group in element.actions]
    order.sort(key=lambda j: len(spec.parents(cast(Leaf, block.terms[j]).group)))
    for j in order:
        leaf = cast(Leaf, block.terms[j])
        action, beside = element.actions[leaf.group].to(values.device), place(spec, name, block, j)
        if action.matrix is None:
            values = reorder(values, action.index, beside, j)
        if action.diagonal is not None and leaf.power:
            if action.diagonal.is_complex():
                values = _rotate(values, action.diagonal, leaf, beside, j, plane(name, block, j))
            else:
                values = _widened(values) * spread(action.diagonal.to(_wide(values)) ** leaf.exponent, values.dim(), (*beside, j))
        if action.matrix is not None and name in spec.gains:
            expect_folded(name, leaf.group, block.view)
        elif action.matrix is not None:
            values = mix(_widened(values), action.dual if leaf.dual else action.matrix, beside, j)
    return values


def expect_folded(name: str, group: str, gain: Tensor) -> None:
    """See that a gain is constant, so that mixing the members it scales leaves it as it is."""
    if gain.numel() and float(gain.max() - gain.min()) > 1e-6 * float(gain.abs().max()):
        raise SymmetryError(f"a matrix acts on group '{group}', but gain '{name}' is not constant; fold it away first: fold(weights, spec)")


def reorder(values: Tensor, index: Tensor, parents: Sequence[int], j: int) -> Tensor:
    """Take members of dimension j in a new order, one for each member of the parent dimensions."""
    if not parents:
        return values.index_select(j, index)
    front = values.movedim((*parents, j), tuple(range(len(parents) + 1)))
    grids = torch.meshgrid(*(torch.arange(n, device=values.device) for n in index.shape), indexing="ij")[:-1]
    return front[(*grids, index)].movedim(tuple(range(len(parents) + 1)), (*parents, j))


def mix(values: Tensor, matrix: Tensor, parents: Sequence[int], j: int) -> Tensor:
    """Multiply the members of dimension j by a matrix for each member of the parent dimensions."""
    places = (*parents, j)
    front = values.movedim(places, tuple(range(len(places))))
    flat = front.flatten(len(places)) if front.dim() > len(places) else front.unsqueeze(-1)
    return (matrix.to(values) @ flat).reshape(front.shape).movedim(tuple(range(len(places))), places)


def _rotate(values: Tensor, diagonal: Tensor, leaf: Leaf, parents: Sequence[int], j: int, pair: int) -> Tensor:
    """Multiply planes by complex numbers; the inverse transpose of a number c, as a matrix, is c / |c|^2."""
    wide = _widened(values)
    factor = diagonal.to(torch.complex128 if wide.dtype == torch.float64 else torch.complex64)
    for _ in range(leaf.power - 1):
        factor = factor * diagonal
    if leaf.dual:
        factor = 1 / factor.conj()
    turned = spread(factor, values.dim(), (*parents, j)).narrow(pair, 0, 1)
    x, y = wide.narrow(pair, 0, 1), wide.narrow(pair, 1, 1)
    return torch.cat([turned.real * x - turned.imag * y, turned.imag * x + turned.real * y], pair)


def spread(values: Tensor, dims: int, places: Sequence[int]) -> Tensor:
    """Lay values over a block's dimensions: those of `places` in order, size one elsewhere."""
    order = sorted(range(len(places)), key=lambda k: places[k])
    shape = [1] * dims
    for k in order:
        shape[places[k]] = values.shape[k]
    return values.permute(order).reshape(shape)


def _wide(values: Tensor) -> torch.dtype:
    return torch.float64 if values.dtype == torch.float64 else torch.float32


def _widened(values: Tensor) -> Tensor:
    return values.to(_wide(values))


def _parent_places(mover: Symmetry, chain: Sequence[NeuronGroup]) -> tuple[Tensor, ...]:
    """For every combination of the parents' new members, where those stood before: an index into the leading dimensions."""
    sizes = [parent.size for parent in chain]
    grids = list(torch.meshgrid(*(torch.arange(n) for n in sizes), indexing="ij"))
    old: list[Tensor] = []
    for depth, parent in enumerate(chain):
        # A parent is itself counted by the new places of its own parents, all of them before it in the chain.
        old.append(mover.action(parent.name).index[tuple(grids[: depth + 1])])
    return tuple(old)


def _put(places: tuple[Tensor, ...], values: Tensor) -> Tensor:
    return torch.empty_like(values).index_put(places, values)


def _nothing(spec: SymmetrySpec, group: str) -> Action:
    lead = tuple(parent.size for parent in spec.parents(group))
    return Action(torch.arange(spec.groups[group].size).expand(*lead, -1))


def _touched(element: Symmetry, name: str) -> Sequence[str]:
    """The groups of a tensor that an element moves."""
    return [leaf.group for axis in element.spec.axes(name) for leaf in leaves(axis) if leaf.group in element.actions]


def _act_lazily(element: Symmetry, checkpoint: Checkpoint, moved: set[str]) -> Checkpoint:
    """The checkpoint with moved tensors, each computed when it is read."""
    storages: dict[str, Storage] = {}
    info = dict(checkpoint.info)
    for name, old in checkpoint.storages.items():
        element_type = dtypes.dtype(info[name].dtype)
        if name in moved and element_type.kind not in ("float", "quantized"):
            _expect_still(element, name)
            moved = moved - {name}
        if name not in moved:
            storages[name] = old
            continue
        if element_type.kind == "quantized":
            raise SymmetryError(
                f"tensor '{name}' is quantised ({element_type.name}), so its members cannot be moved; save its values as F16 first"
            )

        owner = info[name].alias_of
        storages[name] = (
            storages[owner] if owner in storages else Produced(info[name].nbytes, partial(_moved_bytes, element, checkpoint, name))
        )
    return replace(checkpoint, storages=storages, format="memory", path=None, files=(), extras={})


def _moved_bytes(element: Symmetry, checkpoint: Checkpoint, name: str) -> memoryview:
    return tensor_bytes(act_on_tensor(element, name, checkpoint[name]))


__all__ = [
    "Action",
    "NeuronGroup",
    "StateDict",
    "Symmetry",
    "SymmetrySpec",
    "act",
    "act_on_tensor",
    "element",
    "random",
    "reorder",
    "spread",
]
