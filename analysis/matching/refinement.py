"""Colour refinement of neurons: members of neuron groups told apart by their weights, whatever order and signs they come in.

Every member has a colour, all members of a group the same at first. In each round a member's weights are added up with
random numbers that depend on the colour at their other ends (and on the position, where an axis is fixed); members of one
colour that get different sums get different colours. The sums do not depend on the order of members; those that a sign may
flip count by their size, until they tell the sign. What the rounds cannot tell apart is split by hand, and said.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from weightspace.axes import Leaf
from weightspace.errors import SymmetryError
from weightspace.spec import SymmetrySpec, place
from weightspace.symmetry import StateDict, spread

TIE = 1e-9  # of the sums' size: members whose sums differ by less are the same so far


@dataclass(frozen=True)
class _Part:
    """One block of a tensor, its size made one: the group of each dimension, where its parents stand, whether a sign acts."""

    name: str
    values: Tensor
    groups: tuple[str | None, ...]
    at: tuple[tuple[int, ...], ...]
    odd: tuple[bool, ...]


@dataclass
class Refinement:
    """A running refinement.

    Attributes:
        spec: the symmetry.
        weights: a state dict, best in float64.
        colours: of each group's members, shape (*parents, n): ranks, smaller first in the order to be.
        signs: of groups that have them: 1, -1, or 0 as long as unknown.
        ties: for each group how many members no sum told from another of theirs.
    """

    spec: SymmetrySpec
    weights: StateDict
    colours: dict[str, Tensor] = field(default_factory=dict)
    signs: dict[str, Tensor] = field(default_factory=dict)
    ties: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group in self.spec.movable:
            shape = (*(p.size for p in self.spec.parents(group.name)), group.size)
            if group.kind == "permutable":
                self.colours[group.name] = torch.zeros(shape, dtype=torch.long)
            elif group.symmetry == "sign":
                self.colours[group.name] = torch.arange(group.size).expand(shape).clone()
            if group.symmetry == "sign":
                self.signs[group.name] = torch.zeros(shape, dtype=torch.float64)
        self._parts = _parts(self.spec, self.weights, self.colours, self.signs)
        self._norms = self._sizes()

    def run(self) -> None:
        """Refine until every member has a colour of its own among its siblings, and every sign is known."""
        rounds = self._settle(0)
        self.ties = {name: count for name in self.colours if (count := int(self._tied(name).sum()))}
        while self._split():
            rounds = self._settle(rounds)
        for name, signs in self.signs.items():
            self.signs[name] = torch.where(signs == 0, 1.0, signs)

    def _settle(self, start: int) -> int:
        """Refine until two rounds with fresh random numbers have told nothing new; the number of the next round."""
        quiet, known = 0, self._known()
        while quiet < 2:
            self._round(start)
            start, before, known = start + 1, known, self._known()
            quiet = quiet + 1 if known == before else 0
        return start

    def _known(self) -> tuple[int, ...]:
        colours = (int(c.max()) + 1 if c.numel() else 0 for c in self.colours.values())
        return (*colours, *(int(s.abs().sum()) for s in self.signs.values()))

    def _round(self, number: int) -> None:
        """Add up every member's weights by the present colours, then recolour all."""
        plain = {name: torch.zeros(c.shape, dtype=torch.float64) for name, c in self.colours.items()}
        turning = {name: torch.zeros_like(s) for name, s in self.signs.items()}
        for part in self._parts:
            factors = [self._factors(part, k, number) for k in range(part.values.dim())]
            for j, group in enumerate(part.groups):
                if group is None:
                    continue
                once, twice = part.values, part.values.square()
                for k, (flipping, even) in enumerate(factors):
                    if k != j:
                        once, twice = once * flipping, twice * even
                target = turning if part.odd[j] else plain
                target[group] += _onto(once, part.at[j])
                plain[group] += _onto(twice, part.at[j])
        for name, colours in self.colours.items():
            key = plain[name]
            if name in self.signs:
                sums, signs = turning[name], self.signs[name]
                key = key + torch.where(signs == 0, sums.abs(), sums * signs)
                told = (signs == 0) & (sums.abs() > TIE * self._norms[name])
                self.signs[name] = torch.where(told, sums.sign(), signs)
            self.colours[name] = _recoloured(colours, key)

    def _factors(self, part: _Part, k: int, number: int) -> tuple[Tensor, Tensor]:
        """Random numbers for one dimension by colour or position: those for sums, with signs, and those for sums of squares."""
        group = part.groups[k]
        generator = torch.Generator().manual_seed(zlib.crc32(f"{part.name}/{k}/{number}".encode()))
        count = part.values.shape[k] if group is None else self.colours[group].numel()
        sums, squares = torch.randn(2, count, generator=generator, dtype=torch.float64)
        squares = squares.abs() + 0.5
        if group is None:
            return spread(sums, part.values.dim(), (k,)), spread(squares, part.values.dim(), (k,))
        colours = self.colours[group]
        signed = sums[colours] * (self.signs[group] if part.odd[k] else 1.0)
        return spread(signed, part.values.dim(), part.at[k]), spread(squares[colours], part.values.dim(), part.at[k])

    def _sizes(self) -> dict[str, Tensor]:
        """The norm of each member's weights in all blocks."""
        sizes = {name: torch.zeros(c.shape, dtype=torch.float64) for name, c in self.colours.items()}
        for part in self._parts:
            for j, group in enumerate(part.groups):
                if group is not None:
                    sizes[group] += _onto(part.values.square(), part.at[j])
        return {name: squares.sqrt() for name, squares in sizes.items()}

    def _tied(self, name: str) -> Tensor:
        """Which members have the colour of a sibling, weightless ones left out: nobody sees those change places."""
        colours = self.colours[name]
        same = (colours[..., :, None] == colours[..., None, :]).sum(-1) > 1
        return same & (self._norms[name] > 0)

    def _split(self) -> bool:
        """Set one member of the first tie apart from the others, or choose the first unknown sign that matters."""
        for name, colours in self.colours.items():
            where = self._tied(name).reshape(-1).nonzero()
            if len(where):
                flat = colours.reshape(-1) * 2 + 1
                flat[where[0]] -= 1
                self.colours[name] = _recoloured(flat.reshape(colours.shape), torch.zeros(colours.shape, dtype=torch.float64))
                return True
        for name, signs in self.signs.items():
            where = ((signs == 0) & (self._norms[name] > 0)).reshape(-1).nonzero()
            if len(where):
                first = where[self.colours[name].reshape(-1)[where[:, 0]].argmin()]
                self.signs[name].view(-1)[first] = 1.0
                return True
        return False


def _recoloured(colours: Tensor, key: Tensor) -> Tensor:
    """Rank members by colour, then by key; keys of one colour that are equal up to rounding share a rank."""
    old, sums = colours.reshape(-1), key.reshape(-1)
    if not len(old):
        return colours
    by_key = sums.argsort(stable=True)
    order = by_key[old[by_key].argsort(stable=True)]
    gap = sums[order].diff() > TIE * float(sums.abs().max())
    rank = torch.zeros_like(old)
    rank[order[1:]] = (gap | (old[order].diff() > 0)).long().cumsum(0)
    return rank.reshape(colours.shape)


def _onto(values: Tensor, at: tuple[int, ...]) -> Tensor:
    """Add up over all dimensions but some, those in their order."""
    left = sorted(at)
    rest = [k for k in range(values.dim()) if k not in at]
    return (values.sum(rest) if rest else values).permute([left.index(k) for k in at])


def _parts(spec: SymmetrySpec, weights: StateDict, colours: Mapping[str, Tensor], signs: Mapping[str, Tensor]) -> list[_Part]:
    """Cut weights into blocks; all floats count, running statistics too, since they move with their members."""
    made: list[_Part] = []
    for name in spec.tensors:
        tensor = weights[name]
        if not tensor.is_floating_point():
            continue
        if not bool(torch.isfinite(tensor).all()):
            raise SymmetryError(f"tensor '{name}' has values that are not finite; an order of its members needs finite weights")
        for block in spec.blocks(name, tensor.detach().double()):
            groups = tuple(t.group if isinstance(t, Leaf) and t.group in colours else None for t in block.terms)
            size = float(block.view.square().mean().sqrt()) if block.view.numel() else 0.0
            if any(groups) and size:
                at = tuple((*place(spec, name, block, j), j) for j in range(len(groups)))
                odd = tuple(isinstance(t, Leaf) and t.group in signs and t.power % 2 == 1 for t in block.terms)
                made.append(_Part(f"{name}[{len(made)}]", block.view / size, groups, at, odd))
    return made
