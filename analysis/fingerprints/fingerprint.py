"""Fingerprints: a vector of a network's weights that no symmetry of its architecture changes, and that moves little when the weights do.

Every neuron group carries two features of each member, drawn from the weights alone: one that moves as what produces the member does, one as
what consumes it does. They spread from the axes that nothing moves (inputs, classes, cells of a kernel), which random probes are laid on, and
from biases: a tensor sends to each of its groups what is left when its other axes are contracted with the features of the opposite side. So
permutations, signs, scales, rotations and matrices all cancel in the end, where every tensor is contracted with the features of all its
groups. Nothing is sorted or rounded, so that neighbours stay neighbours.
"""

import math
import string
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.architectures import spec_for
from weightspace.axes import Block, Fixed, Leaf
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, SymmetryError
from weightspace.inference import infer_spec
from weightspace.spec import MATRIX, SymmetrySpec, place, plane
from weightspace.symmetry import StateDict

MOST_ROUNDS = 64  # until every group has features; chains need as many as they are deep
KNEE = 0.1  # of the mean square: below it the share that a member has in the whole makes no difference to its weight
SEED = 2_312_04828


def fingerprint(
    weights: Checkpoint | StateDict, spec: SymmetrySpec | None = None, *, channels: int = 32, rounds: int = 2
) -> Float[Tensor, " numbers"]:
    """Take a vector of a network that is the same for all networks that its symmetry group makes of it, up to rounding.

    Further training of the same kind moves it little. Training that renames the classes moves it as far as another seed of the same task is: high
    values show kinship, lower ones do not rule it out.

    Networks are comparable where they have one architecture and tensors of the same names. Running statistics do not count, and neither do integers.

    Args:
        weights: a checkpoint or state dict; it is not changed.
        spec: its symmetry. By default a plain chain whose hidden units may be reordered, scaled and flipped, else what is known of a family by its names.
        channels: numbers for each tensor; each comes from random probes of its own.
        rounds: how often features are spread once every group has some.

    Returns:
        In float64, of norm 1: for each tensor with a row in the spec, in order of names, a part of equal norm (zero where nothing reaches it).

    Raises:
        SymmetryError: no spec is given and none is known.
        AnalysisError: a tensor has values that are not finite.

    Example:
        >>> x = {"fc1.weight": torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "fc2.weight": torch.tensor([[5.0, 6.0]])}
        >>> same = {"fc1.weight": torch.tensor([[3.0, 4.0], [2.0, 4.0]]), "fc2.weight": torch.tensor([[6.0, 2.5]])}
        >>> round(similarity(fingerprint(x), fingerprint(same)), 9)
        1.0
    """
    spec = _symmetry(weights) if spec is None else spec
    spec.check(weights)
    spreading = _Spreading(spec, list(_blocks(weights, spec)), channels)
    if not spreading.parts:
        raise AnalysisError("expected float tensors in the spec, found none; give another spec")
    for _ in range(MOST_ROUNDS):
        known = spreading.known
        spreading.spread()
        if spreading.known == known:
            break
    for _ in range(rounds):
        spreading.spread()
    made = torch.cat([_tamed(part) for part in spreading.numbers()])
    return made / max(float(made.norm()), torch.finfo(made.dtype).tiny)


def similarity(a: Float[Tensor, " numbers"], b: Float[Tensor, " others"]) -> float:
    """The invariant cosine similarity (ICS) of two fingerprints: 1 for one orbit, near 0 for networks that share nothing.

    Raises:
        AnalysisError: they are of different lengths, so of different architectures.
    """
    if a.shape != b.shape:
        raise AnalysisError(
            f"expected fingerprints of one architecture, found {len(a)} and {len(b)} numbers; compare networks with tensors of the same names"
        )
    norm = float(a.norm() * b.norm())
    return min(max(float(a @ b) / norm, -1.0), 1.0) if norm > 0 else math.nan


@dataclass(frozen=True)
class _Part:
    """A block of a tensor: its rank among the names, which block it is, and its values in float64."""

    name: str
    rank: int
    number: int
    block: Block


@dataclass
class _Spreading:
    """Features on their way through a network.

    Attributes:
        spec: the symmetry.
        parts: all blocks.
        channels: of every feature, its last dimension.
        produced: for a group the feature that moves as its producers do, shape (*parents, members[, 2 of a rotated plane], channels).
        consumed: likewise, as its consumers do.
        plain: for a group with scales or signs, a feature that only reorders.
    """

    spec: SymmetrySpec
    parts: list[_Part]
    channels: int
    produced: dict[str, Tensor] = field(default_factory=dict)
    consumed: dict[str, Tensor] = field(default_factory=dict)
    plain: dict[str, Tensor] = field(default_factory=dict)

    @property
    def known(self) -> tuple[frozenset[str], ...]:
        """The groups that have features."""
        return frozenset(self.produced), frozenset(self.consumed), frozenset(self.plain)

    def spread(self) -> None:
        """Let every tensor send to its groups at once, from the features of the round before, so that no order of tensors matters."""
        sent: tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]] = ({}, {}, {})
        for part in self.parts:
            for j, term in enumerate(part.block.terms):
                if not isinstance(term, Leaf) or (side := self._side(term)) is None:
                    continue
                message = self._contracted(part, j)
                if message is not None:
                    sent[side][term.group] = sent[side].get(term.group, 0) + message
        self.produced, self.consumed, self.plain = sent
        for group in {*self.produced, *self.consumed}:
            self._settle(group)

    def numbers(self) -> list[Tensor]:
        """For each tensor, in order of names, the contraction with the features of all its groups."""
        found: dict[str, Tensor] = {}
        for part in self.parts:
            value = self._contracted(part, None)
            before = found.get(part.name, torch.zeros(self.channels, dtype=torch.float64, device=part.block.view.device))
            found[part.name] = before if value is None else before + value
        return list(found.values())

    def _side(self, leaf: Leaf) -> int | None:
        """Where what a tensor sends to a group belongs; nowhere if a scale acts there more than once."""
        if leaf.power == 1 or self._is_plain(leaf.group):
            return int(leaf.dual)
        return 2 if leaf.power == 0 and not self._is_mixed(leaf.group) else None

    def _is_plain(self, group: str) -> bool:
        return self.spec.groups[group].symmetry == "none"

    def _is_mixed(self, group: str) -> bool:
        """Whether members are not single numbers that are multiplied, so that nothing may be done to each by itself."""
        return self.spec.groups[group].symmetry in (*MATRIX, "rotation")

    def _settle(self, group: str) -> None:
        """Weigh members by what only reorders, and bring both sides to one size by a number that no symmetry changes."""
        produced, consumed, plain = (features.get(group) for features in (self.produced, self.consumed, self.plain))
        if produced is not None and plain is not None:
            produced = produced * (1 + _level(plain))
        if produced is not None and consumed is not None:
            if not self._is_mixed(group):
                # Without this, features would only be those of a product of matrices: of what the network does, not of how. The weight
                # is even, since what is odd would give networks that share nothing numbers of one sign.
                produced = produced / (KNEE + _level(produced * consumed).square())
            scale = self._size(group, produced * consumed).rsqrt()
            produced, consumed = produced * scale, consumed * scale
        for features, value in ((self.produced, produced), (self.consumed, consumed)):
            if value is not None:
                features[group] = value

    def _size(self, group: str, products: Tensor) -> Tensor:
        """Root mean square of what the two sides are together, for each channel; 1 where they are nothing."""
        if self._is_mixed(group):  # only the sum over what is mixed means something
            parents = len(self.spec.parents(group))
            products = products.sum(tuple(range(parents, products.ndim - 1)), keepdim=True)
        size = products.square().mean(tuple(range(products.ndim - 1))).sqrt()
        return torch.where(size > 0, size, 1.0)

    def _contracted(self, part: _Part, kept: int | None) -> Tensor | None:
        """A block times the features of its dimensions, summed over all but those of one group (with its parents); None if some are not known."""
        letters, terms = string.ascii_lowercase, part.block.terms
        spots = {j: self._spots(part, j) for j, term in enumerate(terms) if isinstance(term, Leaf)}
        in_planes = {spot for places in spots.values() for spot in places if isinstance(terms[spot], Fixed)}
        operands = [("Z", self._probe(1 + part.rank, part.number, 1)[0])]
        for j, term in enumerate(terms):
            if isinstance(term, Fixed):
                if j not in in_planes:
                    operands.append((letters[j] + "Z", self._probe(0, part.block.origins[j], term.size)))
            elif j != kept:
                feature = self._opposite(term)
                if feature is not None:
                    operands.append(("".join(letters[spot] for spot in spots[j]) + "Z", feature))
                elif not self._is_plain(term.group) and term.power:
                    return None
        # The longest first, so that what lies between grows least.
        operands.sort(key=lambda one: -one[1].numel())
        inputs = ",".join([letters[: len(terms)], *(one for one, _ in operands)])
        made = "".join(letters[spot] for spot in spots[kept]) if kept is not None else ""
        tensors = [part.block.view, *(one.to(part.block.view.device) for _, one in operands)]
        return torch.einsum(f"{inputs}->{made}Z", *tensors)

    def _spots(self, part: _Part, j: int) -> tuple[int, ...]:
        """The dimensions of a block that a group's feature has: of its parents, its own, and that of a rotated plane's coordinates."""
        term = part.block.terms[j]
        is_turned = isinstance(term, Leaf) and term.power and self.spec.groups[term.group].symmetry == "rotation"
        return (*place(self.spec, part.name, part.block, j), j, *([plane(part.name, part.block, j)] if is_turned else []))

    def _opposite(self, leaf: Leaf) -> Tensor | None:
        """What cancels the symmetry at an occurrence of a group."""
        produced, consumed = self.produced.get(leaf.group), self.consumed.get(leaf.group)
        first, second = (produced, consumed) if leaf.dual else (consumed, produced)
        if self._is_plain(leaf.group):
            return first if first is not None else second
        if leaf.power == 0:
            both = produced is not None and consumed is not None and not self._is_mixed(leaf.group)
            return _level(produced * consumed) if both else None  # type: ignore[operator]
        return None if first is None else first**leaf.power

    def _probe(self, kind: int, place: int, size: int) -> Tensor:
        """Random numbers that depend on what an axis is, and on nothing else."""
        generator = torch.Generator().manual_seed(SEED + 1_000_003 * kind + 10_007 * place + size)
        return torch.randn(size, self.channels, generator=generator, dtype=torch.float64)


def _level(values: Tensor) -> Tensor:
    """Values over their root mean square, channel by channel."""
    size = values.square().mean(tuple(range(values.ndim - 1)), keepdim=True).sqrt()
    return values / torch.where(size > 0, size, 1.0)


def _tamed(part: Tensor) -> Tensor:
    """Numbers of one tensor, of norm 1: products of many factors have heavy tails, and a few would decide every cosine."""
    size = part.abs().median()
    tamed = torch.tanh(part / size) if size > 0 else torch.zeros_like(part)
    return torch.nn.functional.normalize(tamed, dim=0)


def _symmetry(weights: Checkpoint | StateDict) -> SymmetrySpec:
    try:
        return infer_spec(weights, "relu")
    except SymmetryError:
        return spec_for(weights)


def _blocks(weights: Checkpoint | StateDict, spec: SymmetrySpec) -> Iterator[_Part]:
    for rank, name in enumerate(sorted(set(spec.tensors) - spec.statistics)):
        tensor = weights[name].detach()
        if not tensor.is_floating_point():
            continue
        wide = tensor.double()
        if not bool(torch.isfinite(wide).all()):
            raise AnalysisError(f"tensor '{name}' has values that are not finite; a fingerprint needs finite weights")
        for number, block in enumerate(spec.blocks(name, wide)):
            if block.view.numel():
                yield _Part(name, rank, number, block)


__all__ = ["fingerprint", "similarity"]
