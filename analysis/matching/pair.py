"""Two sets of weights side by side, cut into blocks, and what each family of neuron groups gains from every assignment.

A *family* is a group together with the groups that are `per` it: they are solved together, since which head goes where depends
on how well the members inside the heads fit.
"""

import math
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor

from weightspace.axes import Leaf
from weightspace.checkpoint import Checkpoint
from weightspace.errors import SymmetryError, UnknownNameError
from weightspace.spec import SymmetrySpec, place
from weightspace.symmetry import Action, StateDict, mix, reorder, spread

STRETCH = 4096  # numbers that are added up in float32 before float64 takes over

Local = Action
"""The action on one group: index and signs by its parents' new places."""

Kernels = dict[tuple[str, ...], Tensor]
"""For groups that stand together in blocks: inner products of members of a with members of b, shape (*sizes, *sizes).

Where a sign of a group does not act, as on the gain of a norm, its name is marked by `UNSIGNED`: those products are kept apart.
"""

UNSIGNED = "^0"


@dataclass(frozen=True)
class PairBlock:
    """One block of one tensor in both sets of weights.

    Attributes:
        name: the tensor.
        a, b: its values.
        groups: the movable group that each dimension is indexed by, None where it is fixed.
        powers: how often a sign acts on each dimension, modulo 2.
        parents: the dimensions of each dimension's parents, outermost first.
        keys: the group of each dimension, marked where its sign does not act.
    """

    name: str
    a: Tensor
    b: Tensor
    groups: tuple[str | None, ...]
    powers: tuple[int, ...]
    parents: tuple[tuple[int, ...], ...]
    keys: tuple[str | None, ...]

    def moved(self, values: Tensor, actions: Mapping[str, Local], skip: frozenset[str] | tuple[int, ...]) -> Tensor:
        """Values of b with the groups' actions applied, but for the groups (or the dimensions) to skip."""
        order = sorted((j for j, g in enumerate(self.groups) if g is not None), key=lambda j: len(self.parents[j]))
        for j in order:
            group = cast(str, self.groups[j])
            if group in skip or j in skip or group not in actions:
                continue
            if actions[group].matrix is not None:  # orthogonal, hence its own inverse transpose
                values = mix(values, cast(Tensor, actions[group].matrix), self.parents[j], j)
                continue
            values = reorder(values, actions[group].index, self.parents[j], j)
            signs = actions[group].diagonal
            if signs is not None and self.powers[j]:
                values = values * spread(signs.to(values.dtype), values.dim(), (*self.parents[j], j))
        return values


@dataclass(frozen=True)
class Family:
    """A group and all that are `per` it, parents first.

    Attributes:
        members: the groups.
        children: the groups directly per each.
        blocks: the blocks in which any of them stands.
        quadratic: those of them in which one stands twice.
    """

    members: tuple[str, ...]
    children: Mapping[str, tuple[str, ...]]
    blocks: tuple[int, ...]
    quadratic: frozenset[int] = frozenset()

    @property
    def root(self) -> str:
        """The group that all others are per."""
        return self.members[0]


@dataclass(frozen=True)
class Pair:
    """Everything that matching needs of two sets of weights.

    Attributes:
        spec: their symmetry.
        blocks: what counts in the objective.
        families: what is assigned together, in the order in which the spec's tensors have them.
        beside: for each family the others that share a block with it.
    """

    spec: SymmetrySpec
    blocks: tuple[PairBlock, ...]
    families: tuple[Family, ...]
    beside: tuple[frozenset[int], ...] = field(default=())

    @classmethod
    def of(
        cls,
        a: Checkpoint | StateDict,
        b: Checkpoint | StateDict,
        spec: SymmetrySpec,
        *,
        masks: Mapping[str, Tensor] | None = None,
        skip: Container[str] = (),
        device: torch.device | str = "cpu",
    ) -> "Pair":
        """Cut two sets of weights into blocks; running statistics, integers and tied repeats do not count.

        Args:
            a: what is aligned to.
            b: what is moved.
            spec: of both.
            masks: for some tensors, numbers to multiply both with (zeros leave out), broadcast to their shape.
            skip: tensors that do not count either.
            device: where the arithmetic is done.

        Raises:
            SymmetryError, ShapeMismatchError: weights that are not of the spec, or not finite.
        """
        spec.check(a)
        spec.check(b)
        unknown = [name for name in masks or {} if name not in spec.tensors]
        if unknown:
            raise UnknownNameError.of("tensor to mask", unknown[0], spec.tensors)
        movable = {group.name for group in spec.movable if group.kind == "permutable"}
        blocks: list[PairBlock] = []
        for name in spec.tensors:
            if (
                name in spec.statistics
                or name in skip
                or not any(isinstance(t, Leaf) and t.group in movable for x in spec.layout(name) for t in x.terms)
            ):
                continue
            left, right = _values(a, name, masks, device), _values(b, name, masks, device)
            if left is None or right is None:
                continue
            for x, y in zip(spec.blocks(name, left), spec.blocks(name, right), strict=True):
                groups = tuple(t.group if isinstance(t, Leaf) and t.group in movable else None for t in x.terms)
                powers = tuple(t.power % 2 if isinstance(t, Leaf) else 0 for t in x.terms)
                keys = tuple(
                    None if g is None else g + UNSIGNED * (spec.groups[g].symmetry == "sign" and not power)
                    for g, power in zip(groups, powers, strict=True)
                )
                if any(groups) and x.view.numel():
                    places = tuple(place(spec, name, x, j) for j in range(len(groups)))
                    blocks.append(PairBlock(name, x.view, y.view, groups, powers, places, keys))
        families = _families(spec, blocks, movable)
        beside = tuple(
            frozenset(k for k, other in enumerate(families) if k != i and set(other.blocks) & set(family.blocks))
            for i, family in enumerate(families)
        )
        return cls(spec, tuple(blocks), families, beside)

    def value(self, actions: Mapping[str, Local]) -> float:
        """The objective: the sum over blocks of the inner product of a with the moved b."""
        nothing: frozenset[str] = frozenset()
        return sum(inner(x.a, x.moved(x.b, actions, nothing)) for x in self.blocks)

    @property
    def size(self) -> int:
        """How many weights count."""
        return sum(block.a.numel() for block in self.blocks)

    @property
    def ceiling(self) -> float:
        """What the objective cannot pass: the product of the norms (Cauchy-Schwarz), reached where the two are equal."""
        return math.sqrt(sum(inner(x.a, x.a) for x in self.blocks) * sum(inner(x.b, x.b) for x in self.blocks))


def bare(key: str) -> str:
    """The group that a key of kernels stands for."""
    return key.removesuffix(UNSIGNED)


def inner(a: Tensor, b: Tensor) -> float:
    """Inner product: short stretches in the tensors' own precision, which is fast, added up in float64."""
    x, y = a.reshape(-1), b.reshape(-1)
    whole = x.numel() - x.numel() % STRETCH
    parts = torch.linalg.vecdot(x[:whole].view(-1, STRETCH), y[:whole].view(-1, STRETCH))
    return float(parts.sum(dtype=torch.float64)) + float(torch.dot(x[whole:], y[whole:]))


def kernel(block: PairBlock, at: tuple[int, ...], left: Tensor, right: Tensor) -> Tensor:
    """Inner products over all dimensions but `at`, shape (*sizes of a, *sizes of b)."""
    sizes = [left.shape[j] for j in at]
    front = tuple(range(len(at)))
    rows, columns = left.movedim(at, front), right.movedim(at, front)
    count = rows[(0,) * len(at)].numel() if rows.numel() else 1
    made = rows.reshape(-1, count) @ columns.reshape(-1, count).T
    return made.reshape(*sizes, *(right.shape[j] for j in at))


def usable(device: torch.device | str) -> torch.device:
    """The device, where there is one.

    Raises:
        SymmetryError: torch has no such device, or this machine has not.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:
        raise SymmetryError(f"device '{device}' cannot be used here ({str(error).splitlines()[0]}); take 'cpu'") from None


def widened(tensor: Tensor) -> Tensor:
    """The values as floats wide enough to multiply and add up: float32, or float64 where they are that or very large or small."""
    wide = tensor.detach().to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    peak = float(torch.linalg.vector_norm(wide, float("inf"))) if wide.numel() else 0.0
    return wide if 1e-12 < peak < 1e12 or not math.isfinite(peak) else wide.double()


def _values(source: Checkpoint | StateDict, name: str, masks: Mapping[str, Tensor] | None, device: torch.device | str) -> Tensor | None:
    """One tensor as floats wide enough to add up, None where it holds no floats."""
    tensor = source[name]
    if not tensor.is_floating_point():
        return None
    wide = widened(tensor).to(device)
    # The sum is finite unless a value is not, or it is itself too large: only then is each value looked at.
    if not math.isfinite(float(wide.sum())) and not bool(torch.isfinite(wide).all()):
        raise SymmetryError(f"tensor '{name}' has values that are not finite; matching needs finite weights")
    return wide * masks[name].to(wide) if masks and name in masks else wide


def _families(spec: SymmetrySpec, blocks: list[PairBlock], movable: set[str]) -> tuple[Family, ...]:
    """Gather every group under its outermost movable ancestor."""
    members: dict[str, list[str]] = {}
    children: dict[str, list[str]] = {}
    for group in spec.movable:
        if group.name not in movable:
            continue
        chain = [parent.name for parent in spec.parents(group.name)]
        fixed = [name for name in chain if name not in movable]
        if fixed:
            raise SymmetryError(f"neuron group '{group.name}' is per '{fixed[0]}', which is fixed; matching needs a permutable parent")
        members.setdefault((chain or [group.name])[0], []).append(group.name)
        if group.per is not None:
            children.setdefault(group.per, []).append(group.name)
    made = []
    first = {name: k for k, block in reversed(list(enumerate(blocks))) for name in block.groups if name is not None}
    for names in sorted(members.values(), key=lambda names: min(first.get(name, len(blocks)) for name in names)):
        inside = frozenset(names)
        where = tuple(k for k, x in enumerate(blocks) if inside & set(x.groups))
        twice = frozenset(k for k in where if any(blocks[k].groups.count(name) > 1 for name in names))
        if where:
            made.append(Family(tuple(names), {n: tuple(children.get(n, ())) for n in names}, where, twice))
    return tuple(made)
