"""The layout of an architecture: its tensors cut into slots, whose every dimension is one neuron group."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from jaxtyping import Shaped
from torch import Tensor

from weightspace.axes import Axis, Block, Fixed, Leaf, blocks
from weightspace.errors import SymmetryError
from weightspace.roles import role_of
from weightspace.spec import MATRIX, NeuronGroup, SymmetrySpec, place

ENDPOINT_AXES = 2
"""An integer that is the whole of one of the first two axes counts inputs or outputs; one further on counts the cells of a kernel."""


@dataclass(frozen=True)
class Slot:
    """A part of a tensor, or all of it, in which every dimension is one neuron group.

    Attributes:
        tensor: its name.
        part: which of the tensor's parts, where a sum cuts it.
        kind: what it is to its layer: `weight`, `bias`, `running_mean` and so on, the last word of the tensor's name.
        role: what its layer is to the network: q, k, v, o, gate, up, down, or the layer's own name (see `weightspace.roles`).
        depth: which layer it stands in, counted from 0 in the order of the spec.
        groups: what indexes each dimension, in the order of the tensor's axes.
        parents: for each dimension, the dimensions of the groups that it is `per`, outermost first.
        exponents: for each dimension, the power with which a scale or sign acts on it: 1, on the consumer's side -1.
        sources: the dimensions on the side that the layer reads, parents included; all others are on the side that it makes.
        cells: values at each place: the cells of a kernel, the positions of a flattened map; what is left of fixed axes.
    """

    tensor: str
    part: int
    kind: str
    role: str
    depth: int
    groups: tuple[str, ...]
    parents: tuple[tuple[int, ...], ...]
    exponents: tuple[int, ...]
    sources: tuple[int, ...]
    cells: int

    @cached_property
    def tips(self) -> tuple[int, ...]:
        """The dimensions that no other one is `per`: each, with its parents, is one node's place."""
        inner = {parent for chain in self.parents for parent in chain}
        return tuple(j for j in range(len(self.groups)) if j not in inner)

    def chain(self, dimension: int) -> tuple[int, ...]:
        """A dimension with those of its parents before it."""
        return (*self.parents[dimension], dimension)

    @property
    def key(self) -> str:
        """A name of its own: the tensor's, with the part where there are several."""
        return self.tensor if self.part == 0 else f"{self.tensor}+{self.part}"


@dataclass(frozen=True, eq=False)
class Layout:
    """A spec with its tensors cut into slots; made once for each architecture.

    Integers that count inputs or outputs become fixed groups of their own, so that every node has a name: `h0 4` is read as `h0 in`.

    Attributes:
        spec: with those groups.
        slots: in the order of the spec.

    Example:
        >>> layout = Layout.of(SymmetrySpec.parse({"fc.weight": "h 4 3 3", "fc.bias": "h"}, sizes={"h": 2}))
        >>> [(slot.key, slot.groups, slot.cells) for slot in layout.slots]
        [('fc.weight', ('h', 'fc.in'), 9), ('fc.bias', ('h',), 1)]
    """

    spec: SymmetrySpec
    slots: tuple[Slot, ...]

    @classmethod
    def of(cls, spec: "SymmetrySpec | Layout") -> "Layout":
        """Cut the tensors of a spec.

        Raises:
            SymmetryError: the spec has no tensors, or a parent of a group stands nowhere beside it.
        """
        if isinstance(spec, Layout):
            return spec
        if not spec.tensors:
            raise SymmetryError("the spec has no tensors, so there is nothing for a metanet to read; give the spec of an architecture")
        named = _with_endpoints(spec)
        layers: dict[str, int] = {}
        found: list[Slot] = []
        for name in named.tensors:
            depth = layers.setdefault(name.rpartition(".")[0], len(layers))
            found += [_slot(named, name, part, block, depth) for part, block in enumerate(named.layout(name))]
        return cls(named, tuple(found))

    @cached_property
    def by_key(self) -> Mapping[str, Slot]:
        """The slots by their keys."""
        return {slot.key: slot for slot in self.slots}

    @cached_property
    def groups(self) -> Mapping[str, NeuronGroup]:
        """The neuron groups that stand in a slot, parents before children."""
        used = {group for slot in self.slots for group in slot.groups}
        return {g.name: g for g in sorted(self.spec.groups.values(), key=lambda g: len(self.spec.parents(g.name))) if g.name in used}

    @property
    def depth(self) -> int:
        """How many layers there are."""
        return 1 + max(slot.depth for slot in self.slots)

    def shape(self, slot: Slot) -> tuple[int, ...]:
        """Size of each dimension of a slot, its cells last."""
        return (*(self.spec.groups[group].size for group in slot.groups), slot.cells)

    def node_shape(self, group: str) -> tuple[int, ...]:
        """Sizes of a group's parents, outermost first, and its own: one node for each combination."""
        return (*(parent.size for parent in self.spec.parents(group)), self.spec.groups[group].size)

    def has_identity(self, group: str) -> bool:
        """Whether a group's order means something outside the network, so that its members may be told apart."""
        return self.spec.groups[group].kind == "fixed"

    def unfold(self, tensors: Mapping[str, Shaped[Tensor, "..."]]) -> dict[str, Shaped[Tensor, "..."]]:
        """Cut stacked tensors into slots.

        Args:
            tensors: (networks, *shape) by tensor name.

        Returns:
            (networks, *sizes of the groups, cells) by slot key, as floats: views where that can be.
        """
        made: dict[str, Tensor] = {}
        for name, slots in self._by_tensor.items():
            for slot, block in zip(slots, self._blocks(name, tensors[name]), strict=True):
                order = _order(block)
                made[slot.key] = block.view.permute(order).reshape(len(tensors[name]), *self.shape(slot))
        return made

    def fold(self, values: Mapping[str, Shaped[Tensor, "..."]]) -> dict[str, Shaped[Tensor, "..."]]:
        """Put slots together into stacked tensors; the inverse of `unfold`. Tensors of whose slots none is given are left out."""
        made: dict[str, Tensor] = {}
        for name, slots in self._by_tensor.items():
            given = [values[slot.key] for slot in slots if slot.key in values]
            if not given:
                continue
            tensor = given[0].new_zeros((len(given[0]), *self.spec.shape(name)))
            for slot, block in zip(slots, self._blocks(name, tensor), strict=True):
                order = _order(block)
                view = block.view.permute(order)
                view.copy_(values[slot.key].reshape(view.shape))
            made[name] = tensor
        return made

    @cached_property
    def _by_tensor(self) -> Mapping[str, list[Slot]]:
        found: dict[str, list[Slot]] = {}
        for slot in self.slots:
            found.setdefault(slot.tensor, []).append(slot)
        return found

    def _blocks(self, name: str, stacked: Tensor) -> list[Block]:
        """The parts of a stack of tensors; their first dimension counts the networks."""
        return blocks(stacked, (Fixed(len(stacked)), *self.spec.axes(name)), self.spec.sizes)

    def __repr__(self) -> str:
        return f"<Layout: {len(self.slots)} slots of {len(self.spec.tensors)} tensors, {len(self.groups)} neuron groups>"


def _order(block: Block) -> list[int]:
    """The dimensions of a stacked part in a slot's order: networks, groups, then what is fixed."""
    dims = range(1, len(block.terms))
    return [0, *(j for j in dims if isinstance(block.terms[j], Leaf)), *(j for j in dims if isinstance(block.terms[j], Fixed))]


def _slot(spec: SymmetrySpec, name: str, part: int, block: Block, depth: int) -> Slot:
    places = [j for j, term in enumerate(block.terms) if isinstance(term, Leaf)]
    at = {j: dim for dim, j in enumerate(places)}
    terms = [term for term in block.terms if isinstance(term, Leaf)]
    parents = tuple(tuple(at[k] for k in place(spec, name, block, j)) for j in places)
    made = Slot(
        tensor=name,
        part=part,
        kind=name.rpartition(".")[2],
        role=role_of(name),
        depth=depth,
        groups=tuple(term.group for term in terms),
        parents=parents,
        exponents=tuple(term.exponent for term in terms),
        sources=(),
        cells=math.prod(term.size for term in block.terms if isinstance(term, Fixed)),
    )
    return replace(made, sources=_sources(spec, made, terms, [block.origins[j] for j in places]))


def _sources(spec: SymmetrySpec, slot: Slot, terms: Sequence[Leaf], origins: Sequence[int]) -> tuple[int, ...]:
    """The dimensions that a layer reads from.

    The mark of the consumer's side says so, but not on groups that a matrix mixes, where keys bear it as the dual of queries.
    Where there is no mark, the first axis is what is made, as torch has it.
    """
    if len(slot.tips) < 2:
        return ()
    read = [tip for tip in slot.tips if any(terms[j].dual and spec.groups[terms[j].group].symmetry not in MATRIX for j in slot.chain(tip))]
    if not read or len(read) == len(slot.tips):
        first = min(slot.tips, key=lambda tip: origins[tip])
        read = [tip for tip in slot.tips if tip != first]
    made = {j for tip in slot.tips if tip not in read for j in slot.chain(tip)}
    return tuple(sorted({j for tip in read for j in slot.chain(tip)} - made))


def _with_endpoints(spec: SymmetrySpec) -> SymmetrySpec:
    """The spec with a fixed group for each integer that counts inputs or outputs, shared by the tensors of a layer."""
    groups, tensors = dict(spec.groups), dict(spec.tensors)
    for name, axes in spec.tensors.items():
        made: list[Axis] = list(axes)
        for j, axis in enumerate(axes[:ENDPOINT_AXES]):
            if isinstance(axis, Fixed) and axis.size > 0:
                end = f"{name.rpartition('.')[0]}.{('out', 'in')[j]}".lstrip(".")
                made[j] = Leaf(_endpoint(groups, end, axis.size))
        tensors[name] = tuple(made)
    return replace(spec, groups=groups, tensors=tensors, proved=False)


def _endpoint(groups: dict[str, NeuronGroup], name: str, size: int) -> str:
    """Add a fixed group, under another name where one of another size has this one already."""
    plain = "".join(sign if sign.isalnum() or sign in "_." else "_" for sign in name)
    plain = plain if plain[:1].isalpha() else f"layer{plain}"
    while plain in groups and (groups[plain].size != size or groups[plain].kind != "fixed"):
        plain += "_"
    groups[plain] = NeuronGroup(plain, size, kind="fixed")
    return plain


__all__ = ["ENDPOINT_AXES", "Layout", "Slot"]
