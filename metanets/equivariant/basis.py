"""The basis of equivariant linear maps between the slots of an architecture, derived from its spec."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, permutations

from jaxtyping import Float
from torch import Tensor

from weightspace.metanets.layout import Layout, Slot

Cell = tuple[int, ...]
"""Dimensions that share one index."""

Signature = tuple[tuple[str, int], ...]
"""What indexes a tensor that a map carries: for each axis its group, and which axis is that of its parent (-1 without)."""


@dataclass(frozen=True)
class Frame:
    """A slot as linear maps see it: dimensions that move, and those that are folded into channels.

    Attributes:
        slot: of the layout.
        kept: the dimensions that stay dimensions.
        folded: the others.
        parents: for each kept dimension its nearest parent among them, -1 without; both counted among the kept ones.
        sizes: of the kept dimensions.
        folded_sizes: of the others.
    """

    slot: Slot
    kept: tuple[int, ...]
    folded: tuple[int, ...]
    parents: tuple[int, ...]
    sizes: tuple[int, ...]
    folded_sizes: tuple[int, ...]

    @property
    def groups(self) -> tuple[str, ...]:
        """The group of each kept dimension."""
        return tuple(self.slot.groups[j] for j in self.kept)

    @property
    def folds(self) -> int:
        """How many places are folded into one."""
        return math.prod(self.folded_sizes)

    def fold(self, values: Float[Tensor, "networks ..."]) -> Float[Tensor, "networks ..."]:
        """Take (networks, *sizes of the groups, channels) to (networks, *kept sizes, folds x channels)."""
        order = [0, *(1 + j for j in self.kept), *(1 + j for j in self.folded), values.ndim - 1]
        return values.permute(order).reshape(len(values), *self.sizes, self.folds * values.shape[-1])

    def unfold(self, values: Float[Tensor, "networks ..."]) -> Float[Tensor, "networks ..."]:
        """The inverse of `fold`."""
        order = (*self.kept, *self.folded)
        split = values.reshape(len(values), *self.sizes, *self.folded_sizes, -1)
        return split.permute(0, *(1 + order.index(j) for j in range(len(order))), split.ndim - 1)


@dataclass(frozen=True)
class Place:
    """One way to read a slot, or to write to it.

    Attributes:
        slot: its key.
        cells: what each axis of the signature is in the slot; a cell of several dimensions is their diagonal.
        rest: the other cells of its dimensions, children first: averaged where it is read, filled alike where it is written.
    """

    slot: str
    cells: tuple[Cell, ...]
    rest: tuple[Cell, ...]

    @cached_property
    def pattern(self) -> tuple[Cell, ...]:
        """Which dimensions are equal, in the order of the slot's dimensions."""
        return tuple(sorted((*self.cells, *self.rest)))

    @property
    def is_whole(self) -> bool:
        """Whether it is every value of the slot."""
        return not self.rest and all(len(cell) == 1 for cell in self.cells)


@dataclass(frozen=True)
class Term:
    """All maps that carry tensors of one signature: each place read is mapped to each place written.

    Attributes:
        signature: of what is carried.
        reads: places in slots of the input.
        writes: places in slots of the output.
    """

    signature: Signature
    reads: tuple[Place, ...]
    writes: tuple[Place, ...]

    def in_order(self) -> "Term":
        """The same with its axes as they stand in the first slot that it writes as a whole, which then need not be transposed."""
        cells = next((place.cells for place in self.writes if place.is_whole), ())
        order = sorted(range(len(cells)), key=lambda at: cells[at])
        if not order:
            return self
        signature = tuple((self.signature[at][0], order.index(self.signature[at][1]) if self.signature[at][1] >= 0 else -1) for at in order)
        turned = [[replace(p, cells=tuple(p.cells[at] for at in order)) for p in places] for places in (self.reads, self.writes)]
        return Term(signature, tuple(turned[0]), tuple(turned[1]))


@dataclass(frozen=True)
class Basis:
    """The linear maps from the slots of an architecture to themselves that commute with its permutations, grouped by what they carry.

    A map joins an output and an input by a partition of the dimensions of both, in which dimensions share an index only when they are
    of one group, and those of a group that is `per` another only where their parents share theirs. Dimensions of the input that share
    an index are read on their diagonal, those that share none with the output are averaged; dimensions of the output that share one
    are written on their diagonal, those that share none with the input are filled alike (Zhou et al., Universal Neural Functionals,
    arXiv:2402.05232, algorithm 1). Together these span all equivariant maps. Everything that carries the same indices goes into one
    `Term`, so that a layer is one matrix product for each.

    Attributes:
        frames: by slot key.
        terms: by what they carry, from nothing (the means of everything) to whole slots.

    Example:
        >>> from weightspace.spec import SymmetrySpec
        >>> layout = Layout.of(SymmetrySpec.parse({"w": "b a", "v": "c b"}, sizes={"a": 4, "b": 4, "c": 4}))
        >>> basis = Basis.of(layout)
        >>> basis.count("w", "w"), basis.count("v", "w")
        (4, 2)
    """

    frames: Mapping[str, Frame]
    terms: tuple[Term, ...]

    @classmethod
    def of(cls, layout: Layout, fold: Collection[str] = ()) -> "Basis":
        """Derive it.

        Args:
            layout: of the architecture.
            fold: groups whose members keep their places, to become channels. Others are taken to permute, fixed ones as well.
        """
        frames = {slot.key: _frame(layout, slot, fold) for slot in layout.slots}
        reads: dict[Signature, list[Place]] = {}
        writes: dict[Signature, list[Place]] = {}
        for frame in frames.values():
            for cells in partitions(frame):
                for carried in _carried(frame, cells):
                    rest = tuple(sorted(set(cells) - set(carried), key=lambda cell: (-_generation(frame, cell[0]), cell)))
                    signature, orders = _orders(frame, carried)
                    reads.setdefault(signature, []).extend(Place(frame.slot.key, order, rest) for order in orders)
                    writes.setdefault(signature, []).append(Place(frame.slot.key, orders[0], rest))
        found = sorted(reads, key=len)
        return cls(frames, tuple(Term(signature, tuple(reads[signature]), tuple(writes[signature])).in_order() for signature in found))

    def count(self, output: str, source: str) -> int:
        """How many maps there are from one slot to another, for each pair of channels."""
        return sum(sum(p.slot == source for p in term.reads) * sum(p.slot == output for p in term.writes) for term in self.terms)


def partitions(frame: Frame) -> Iterator[tuple[Cell, ...]]:
    """The ways in which kept dimensions of a slot may share indices."""
    order = sorted(range(len(frame.kept)), key=lambda j: _generation(frame, j))
    yield from (tuple(map(tuple, cells)) for cells in _extend(frame, order, []))


def _extend(frame: Frame, order: Sequence[int], cells: list[list[int]]) -> Iterator[list[list[int]]]:
    if not order:
        yield cells
        return
    j = order[0]
    alike = [cell for cell in cells if _kin(frame, cells, cell[0]) == _kin(frame, cells, j)]
    for cell in alike:
        yield from _extend(frame, order[1:], [[*one, j] if one is cell else one for one in cells])
    yield from _extend(frame, order[1:], [*cells, [j]])


def _kin(frame: Frame, cells: Sequence[Sequence[int]], j: int) -> tuple[str, int]:
    """What two dimensions must have in common to share an index: their group, and the cell of their parents."""
    parent = frame.parents[j]
    return frame.groups[j], -1 if parent < 0 else next(at for at, cell in enumerate(cells) if parent in cell)


def _generation(frame: Frame, j: int) -> int:
    return 0 if frame.parents[j] < 0 else 1 + _generation(frame, frame.parents[j])


def _carried(frame: Frame, cells: Sequence[Cell]) -> Iterator[tuple[Cell, ...]]:
    """Choices of cells whose indices an input may share with an output: no child without its parent."""
    for count in range(len(cells) + 1):
        for chosen in combinations(cells, count):
            present = {j for cell in chosen for j in cell}
            if all(frame.parents[cell[0]] < 0 or frame.parents[cell[0]] in present for cell in chosen):
                yield chosen


def _orders(frame: Frame, cells: Sequence[Cell]) -> tuple[Signature, list[tuple[Cell, ...]]]:
    """The signature of some cells, and every order of them that has it: several where groups stand twice."""
    found: dict[Signature, list[tuple[Cell, ...]]] = {}
    for order in permutations(cells):
        parents = [next((at for at, cell in enumerate(order) if frame.parents[one[0]] in cell), -1) for one in order]
        if all(parent < at for at, parent in enumerate(parents)):
            found.setdefault(tuple((frame.groups[one[0]], parent) for one, parent in zip(order, parents, strict=True)), []).append(order)
    signature = min(found)
    return signature, found[signature]


def _frame(layout: Layout, slot: Slot, fold: Collection[str]) -> Frame:
    kept = tuple(j for j, group in enumerate(slot.groups) if group not in fold)
    folded = tuple(j for j, group in enumerate(slot.groups) if group in fold)
    sizes = layout.shape(slot)
    parents = tuple(
        max((kept.index(parent) for parent in slot.parents[j] if parent in kept), default=-1, key=lambda at: _rank(slot, kept[at]))
        for j in kept
    )
    return Frame(slot, kept, folded, parents, tuple(sizes[j] for j in kept), tuple(sizes[j] for j in folded))


def _rank(slot: Slot, dimension: int) -> int:
    return len(slot.parents[dimension])


def foldable(layout: Layout, *, at_most: int | None = None) -> frozenset[str]:
    """The groups that can become channels: of a fixed order, or of one member.

    A group with children that permute stays, as each of its members has permutations of its own.

    Args:
        layout: of the architecture.
        at_most: members that a group may have, where wide channels would be too many; any number without.
    """
    spec = layout.spec
    inner = {parent.name for name in layout.groups if not layout.has_identity(name) for parent in spec.parents(name) if parent.size > 1}
    return frozenset(
        name
        for name, group in layout.groups.items()
        if group.size == 1 or (layout.has_identity(name) and name not in inner and (at_most is None or group.size <= at_most))
    )


__all__ = ["Basis", "Cell", "Frame", "Place", "Signature", "Term", "foldable", "partitions"]
