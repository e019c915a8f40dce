"""The symmetry specification of an architecture: its neuron groups, and which of them index each axis of each tensor."""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, cast

from weightspace.axes import Axis, Block, Fixed, Leaf, blocks, leaves, parse, show, size
from weightspace.checkpoint import Checkpoint
from weightspace.errors import ShapeMismatchError, SymmetryError, UnknownNameError
from weightspace.spec_sizes import expect_weights

if TYPE_CHECKING:
    import torch

    from weightspace.proof import Certificate
    from weightspace.symmetry import Symmetry

Kind = Literal["permutable", "fixed"]
Continuous = Literal["none", "sign", "scale", "rotation", "orthogonal", "linear"]
MATRIX = ("orthogonal", "linear")


@dataclass(frozen=True)
class NeuronGroup:
    """The things that an axis counts: the hidden units of a layer, the heads of an attention, the channels of a stream.

    Attributes:
        name: letters, digits, `_` and `.`.
        size: how many members.
        kind: `permutable`, or `fixed` where the order has a meaning outside the network.
        symmetry: what may be done to members beyond reordering: `sign` (odd activations), `scale` (positively homogeneous
            ones), `rotation` (rotary planes: each member is a pair of coordinates, multiplied by a complex number),
            `orthogonal` or `linear` (the members mixed by a matrix). Members of a fixed order may have them too: each keeps its
            place and is flipped or scaled there, and a matrix is the one thing that may then mix them.
        per: the group for each of whose members this one has an element of its own.
    """

    name: str
    size: int
    kind: Kind = "permutable"
    symmetry: Continuous = "none"
    per: str | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("permutable", "fixed"):
            raise SymmetryError(f"neuron group '{self.name}' has kind '{self.kind}'; expected permutable or fixed")
        if self.symmetry not in ("none", "sign", "scale", "rotation", *MATRIX):
            raise SymmetryError(
                f"neuron group '{self.name}' has symmetry '{self.symmetry}'; expected none, sign, scale, rotation, orthogonal or linear"
            )
        if not isinstance(self.name, str) or parse(self.name) != (Leaf(self.name),):
            raise SymmetryError(f"'{self.name}' cannot name a neuron group; use letters, digits, '_' and '.', a letter first")
        if isinstance(self.size, bool) or not isinstance(self.size, numbers.Integral):
            raise SymmetryError(f"neuron group '{self.name}' has size {self.size!r}; expected a whole number")
        if self.size < 0:
            raise SymmetryError(f"neuron group '{self.name}' has size {self.size}; expected 0 or more")

    @property
    def is_movable(self) -> bool:
        """Whether an element can do anything to it."""
        return self.symmetry != "none" or (self.kind == "permutable" and self.size > 1)


@dataclass(frozen=True, repr=False)
class SymmetrySpec:
    """All neuron groups of an architecture and the axes of its tensors.

    Two specs are equal, and then have one hash, when their groups, axes, aliases, statistics and gains are.

    Attributes:
        groups: by name.
        tensors: the axes of each tensor, by tensor name.
        aliases: tied tensors: for each further name the one that has the row.
        statistics: running statistics, which move with their axes and stay out of matching costs.
        notes: what the derivation could not follow, a line each.
        gains: gains of norms that can be folded away (see `weightspace.folding`), each with the tensors that read what it scales.
            A matrix acts on their group only where they are constant.
        proved: whether a proof found every group to preserve the function and every occurrence to matter (see `weightspace.proof`).
    """

    groups: Mapping[str, NeuronGroup]
    tensors: Mapping[str, tuple[Axis, ...]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    statistics: frozenset[str] = frozenset()
    notes: tuple[str, ...] = field(default=(), compare=False)
    proved: bool = field(default=False, compare=False)
    gains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("groups", "tensors", "aliases", "gains"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        for group in self.groups.values():
            self.parents(group.name)
        for name, owner in self.aliases.items():
            if owner not in self.tensors or name in self.tensors:
                raise SymmetryError(f"tensor '{name}' is tied to '{owner}', which needs a row in the spec, and '{name}' none of its own")
        for name in sorted(self.statistics):
            if name not in self.tensors and name not in self.aliases:
                raise UnknownNameError.of("tensor (of 'statistics')", name, self.tensors)
        for gain, readers in self.gains.items():
            missing = [name for name in (gain, *readers) if name not in self.tensors]
            if missing:
                raise SymmetryError(f"gain '{gain}' is read by tensors of which '{missing[0]}' has no row in the spec; add it")
        for name, axes in self.tensors.items():
            for axis in axes:
                for leaf in leaves(axis):
                    self._check_leaf(name, leaf)
            if any(self.groups[leaf.group].per or self.groups[leaf.group].symmetry == "rotation" for a in axes for leaf in leaves(a)):
                self._check_layout(name)

    def __hash__(self) -> int:
        said = (self.groups, self.tensors, self.aliases, self.gains)
        return hash((*(frozenset(one.items()) for one in said), self.statistics))

    def __reduce__(self) -> tuple[Any, ...]:
        return _spec, (
            dict(self.groups),
            dict(self.tensors),
            dict(self.aliases),
            self.statistics,
            self.notes,
            self.proved,
            dict(self.gains),
        )

    def _check_leaf(self, name: str, leaf: Leaf) -> None:
        if leaf.group not in self.groups:
            raise UnknownNameError.of(f"neuron group (tensor '{name}')", leaf.group, self.groups)
        if self.groups[leaf.group].symmetry in MATRIX and leaf.power != 1:
            raise SymmetryError(
                f"tensor '{name}' has '{leaf}', but a matrix acts on group '{leaf.group}', which has no powers; remove the power"
            )

    def _check_layout(self, name: str) -> None:
        """Every group stands beside its parent, every rotated one beside its two coordinates."""
        for block in self.layout(name):
            for j, term in enumerate(block.terms):
                if isinstance(term, Leaf):
                    place(self, name, block, j)
                    if self.groups[term.group].symmetry == "rotation" and term.power:
                        plane(name, block, j)

    @classmethod
    def parse(
        cls,
        tensors: Mapping[str, str],
        *,
        sizes: Mapping[str, int] | None = None,
        groups: Mapping[str, NeuronGroup | Mapping[str, Any]] | None = None,
        aliases: Mapping[str, str] | None = None,
        statistics: Sequence[str] | frozenset[str] = (),
        gains: Mapping[str, Sequence[str]] | None = None,
    ) -> "SymmetrySpec":
        """Make a spec from the axes of each tensor as text.

        Args:
            tensors: the axes of each tensor.
            sizes: of groups that are plain (permutable, without more).
            groups: what is to be said of the others: a `NeuronGroup`, or its fields as a mapping.
            aliases: for each further name of a tied tensor the one that has the row.
            statistics: names of running statistics.
            gains: gains of norms, each with the tensors that read what it scales.

        Raises:
            SymmetryError: text that does not follow the grammar, groups that contradict each other, or a size of no group.

        Example:
            >>> SymmetrySpec.parse({"fc1.weight": "h 4", "fc2.weight": "3 h'"}, sizes={"h": 8})
            <SymmetrySpec: 2 tensors, 1 neuron group, 2^15.3 permutations, not proved>
            fc1.weight  h 4
            fc2.weight  3 h'
            group  size  kind        symmetry  per
            h      8     permutable  none
        """
        given_as = (("tensors", tensors), ("sizes", sizes), ("groups", groups), ("aliases", aliases), ("gains", gains))
        for what, mapping in given_as:
            if not isinstance(mapping, Mapping) and (mapping is not None or what == "tensors"):
                raise SymmetryError(f"'{what}' is a {type(mapping).__name__}; expected names with what is said of them")
        for name, text in tensors.items():
            if not isinstance(text, str):
                raise SymmetryError(f"the axes of tensor '{name}' are {text!r}; expected text such as 'h in'")
        sizes = dict(sizes or {})
        made: dict[str, NeuronGroup] = {}
        for name, given in (groups or {}).items():
            if isinstance(given, NeuronGroup):
                made[name] = given
                continue
            _expect_fields(name, given)
            made[name] = NeuronGroup(name, **{"size": sizes.get(name, -1), **given})
        for name, count in sizes.items():
            made.setdefault(name, NeuronGroup(name, count))
        spec = cls(
            made,
            {name: parse(text) for name, text in tensors.items()},
            aliases or {},
            frozenset(statistics),
            gains={name: tuple(readers) for name, readers in (gains or {}).items()},
        )
        used = {leaf.group for axes in spec.tensors.values() for axis in axes for leaf in leaves(axis)}
        used |= {*(groups or {}), *(group.per for group in made.values() if group.per is not None)}
        for name in sizes:
            if name not in used:
                raise UnknownNameError.of("neuron group (of 'sizes')", name, used)
        return spec

    @classmethod
    def from_yaml(cls, source: Path | str, checkpoint: Checkpoint | None = None) -> "SymmetrySpec":
        """Read a spec from a YAML or JSON file (or its text); templates and missing sizes are filled in from a checkpoint.

        See `weightspace.spec_text` for the form.
        """
        from weightspace.spec_text import read

        return read(source, checkpoint)

    def to_yaml(self) -> str:
        """Print the spec as the YAML that `from_yaml` reads."""
        from weightspace.spec_text import write

        return write(self)

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain mappings, as they stand in YAML or JSON."""
        made: dict[str, Any] = {
            "groups": {
                name: {k: v for k, v in asdict(g).items() if k == "size" or v != NeuronGroup.__dataclass_fields__[k].default}
                for name, g in self.groups.items()
            },
            "tensors": {name: show(axes) for name, axes in self.tensors.items()},
        }
        for group in made["groups"].values():
            group.pop("name")
        if self.aliases:
            made["aliases"] = dict(self.aliases)
        if self.statistics:
            made["statistics"] = sorted(self.statistics)
        if self.gains:
            made["gains"] = {name: list(readers) for name, readers in self.gains.items()}
        if self.notes:
            made["notes"] = list(self.notes)
        if self.proved:
            made["proved"] = True
        return made

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Size of each group."""
        return {name: group.size for name, group in self.groups.items()}

    @cached_property
    def movable(self) -> tuple[NeuronGroup, ...]:
        """The groups to which an element can do anything, parents before children."""
        return tuple(sorted((g for g in self.groups.values() if g.is_movable), key=lambda g: len(self.parents(g.name))))

    @property
    def folded(self) -> "SymmetrySpec":
        """The spec of weights whose gains are folded away (see `weightspace.folding.fold`): their groups may be turned by orthogonal matrices."""
        gained = {leaf.group for gain in self.gains for axis in self.axes(gain) for leaf in leaves(axis)}
        groups = {name: replace(g, symmetry="orthogonal") if name in gained else g for name, g in self.groups.items()}
        tensors = dict(self.tensors)
        for gain in self.gains:
            tensors[gain] = tuple(Leaf(leaf.group) for axis in self.axes(gain) for leaf in leaves(axis))
        return replace(self, groups=groups, tensors=tensors, proved=False)

    def parents(self, group: str) -> tuple[NeuronGroup, ...]:
        """The groups for each of whose members a group has its own element, outermost first.

        Raises:
            SymmetryError: a parent is unknown, mixed by a matrix, or its own descendant.
        """
        chain: list[NeuronGroup] = []
        parent = self.groups[group].per
        while parent is not None:
            if parent not in self.groups:
                raise UnknownNameError.of(f"neuron group (parent of '{group}')", parent, self.groups)
            if parent == group or any(parent == g.name for g in chain):
                circle = " per ".join(f"'{name}'" for name in [group, *(g.name for g in chain), parent])
                raise SymmetryError(f"neuron group {circle} runs in a circle; remove one 'per'")
            if self.groups[parent].symmetry in MATRIX:
                raise SymmetryError(
                    f"neuron group '{group}' is per '{parent}', whose members a matrix mixes; give '{parent}' another symmetry"
                )
            chain.append(self.groups[parent])
            parent = self.groups[parent].per
        return tuple(reversed(chain))

    def copies(self, group: str) -> int:
        """How many elements a group has: one for each of its parents' members."""
        return math.prod(parent.size for parent in self.parents(group))

    @property
    def log2_order(self) -> float:
        """Log2 of the number of permutations, with signs where there are any."""
        total = 0.0
        for group in self.movable:
            bits = math.lgamma(group.size + 1) / math.log(2) if group.kind == "permutable" else 0.0
            total += self.copies(group.name) * (bits + (group.size if group.symmetry == "sign" else 0))
        return total

    @property
    def dimension(self) -> int:
        """Dimension of the continuous symmetries that the spec declares."""
        free = {"scale": lambda n: n, "rotation": lambda n: 2 * n, "orthogonal": lambda n: n * (n - 1) // 2, "linear": lambda n: n * n}
        return sum(self.copies(g.name) * free[g.symmetry](g.size) for g in self.groups.values() if g.symmetry in free)

    def axes(self, name: str) -> tuple[Axis, ...]:
        """The axes of a tensor, also of a tied one.

        Raises:
            UnknownNameError: the spec has no such tensor.
        """
        owner = self.aliases.get(name, name)
        if owner not in self.tensors:
            raise UnknownNameError.of("tensor", name, self.tensors)
        return self.tensors[owner]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape that a tensor has by its axes."""
        return tuple(size(axis, self.sizes) for axis in self.axes(name))

    def layout(self, name: str) -> list[Block]:
        """The blocks of a tensor, without values."""
        import torch

        return blocks(torch.empty(self.shape(name), device="meta"), self.axes(name), self.sizes)

    def blocks(self, name: str, tensor: "torch.Tensor") -> list[Block]:
        """The blocks of a tensor's values: views in which each dimension is one group or fixed (see `weightspace.axes.blocks`)."""
        return blocks(tensor, self.axes(name), self.sizes)

    def check(self, state_dict: Checkpoint | Mapping[str, "torch.Tensor"]) -> None:
        """See that a state dict is of this architecture: every tensor of the spec with its shape, no float tensor besides.

        Raises:
            SymmetryError: it is no state dict, a tensor is missing, or one has no row.
            ShapeMismatchError: a tensor's axis has another size.
        """
        expect_weights(state_dict)
        found = _shapes(state_dict)
        for name in [*self.tensors, *self.aliases]:
            if name not in found:
                if name in self.aliases:  # containers may store a tied tensor once
                    continue
                raise SymmetryError(f"the spec has a row for tensor '{name}', which is not there; take the spec of this architecture")
            shape, axes = found[name][0], self.axes(name)
            if len(shape) != len(axes):
                raise ShapeMismatchError(
                    f"tensor '{name}' has {len(shape)} axes (shape {list(shape)}), but the spec says '{show(axes)}'; correct the spec"
                )
            for j, (axis, expected) in enumerate(zip(axes, self.shape(name), strict=True)):
                if shape[j] != expected:
                    raise ShapeMismatchError(
                        f"tensor '{name}' axis {j} ('{axis}') has size {shape[j]}, but the spec says {expected}; correct the sizes"
                    )
        for name, (shape, is_float) in found.items():
            if is_float and name not in self.tensors and name not in self.aliases:
                raise SymmetryError(
                    f"tensor '{name}' of shape {list(shape)} has no row in the spec; add one (integers for axes that are not to move)"
                )

    def with_groups(self, **changes: Mapping[str, Any]) -> "SymmetrySpec":
        """The same spec with some fields of some groups changed: `spec.with_groups(h={"symmetry": "none"})`.

        Raises:
            UnknownNameError: the spec has no such group.
            SymmetryError: a group has no such field.
        """
        groups = dict(self.groups)
        for name, change in changes.items():
            if name not in groups:
                raise UnknownNameError.of("neuron group", name, groups)
            _expect_fields(name, change)
            groups[name] = replace(groups[name], **cast(Any, change))
        return replace(self, groups=groups, proved=False)

    def identity(self) -> "Symmetry":
        """The element that does nothing."""
        return self.element({})

    def element(self, actions: Mapping[str, Any]) -> "Symmetry":
        """An element from an index, an (index, diagonal) pair, a matrix or an `Action` by group; groups left out stay as they are."""
        from weightspace.symmetry import element

        return element(self, actions)

    def random(self, generator: "torch.Generator | None" = None, *, discrete: bool = False) -> "Symmetry":
        """A random element; `discrete` ones only permute and flip signs."""
        from weightspace.symmetry import random

        return random(self, generator, discrete=discrete)

    def certificate(self, module: "torch.nn.Module", *inputs: Any, **options: Any) -> "Certificate":
        """Compare the continuous symmetries declared with those that a small network has (see `weightspace.proof.certificate`)."""
        from weightspace.proof import certificate

        return certificate(self, module, *inputs, **options)

    def diff(self, other: "SymmetrySpec") -> list[str]:
        """What another spec says differently, a line each; nothing when they are equal.

        Raises:
            SymmetryError: the other is no spec.
        """
        from weightspace.spec_table import differences

        if not isinstance(other, SymmetrySpec):
            raise SymmetryError(f"expected another spec to compare with, found {type(other).__name__}; give a SymmetrySpec")
        return differences(self, other)

    def __repr__(self) -> str:
        from weightspace.spec_table import table

        return table(self)

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        from weightspace.spec_table import html

        return html(self)


def place(spec: SymmetrySpec, name: str, block: Block, j: int) -> tuple[int, ...]:
    """The dimensions of a block where the parents of dimension j's group stand, outermost first.

    A parent on the same axis comes first, then one on another axis.

    Raises:
        SymmetryError: a parent stands nowhere, or in several places.
    """
    term = block.terms[j]
    found: list[int] = []
    for parent in spec.parents(term.group) if isinstance(term, Leaf) else ():
        everywhere = block.where(parent.name)
        near = [k for k in everywhere if block.origins[k] == block.origins[j]] or list(everywhere)
        if len(near) != 1:
            where = "in two places" if near else "nowhere"
            raise SymmetryError(f"tensor '{name}' has '{term}', which is per '{parent.name}', but '{parent.name}' stands {where} beside it")
        found.append(near[0])
    return tuple(found)


def plane(name: str, block: Block, j: int) -> int:
    """The dimension of size 2 that holds the two coordinates of a rotated group at dimension j.

    Raises:
        SymmetryError: there is none beside it.
    """
    for k in (j - 1, j + 1):
        if 0 <= k < len(block.terms) and block.terms[k] == Fixed(2) and block.origins[k] == block.origins[j]:
            return k
    raise SymmetryError(
        f"tensor '{name}' has '{block.terms[j]}', whose members are planes, without their two coordinates; "
        f"write '({block.terms[j]} + {block.terms[j]})' or '({block.terms[j]} 2)'"
    )


def _expect_fields(name: str, given: object) -> None:
    """See that what is said of a group is a mapping of its fields."""
    if not isinstance(given, Mapping):
        raise SymmetryError(f"neuron group '{name}' is {given!r}; expected a mapping of size, kind, symmetry and per")
    unknown = [key for key in given if key not in ("size", "kind", "symmetry", "per")]
    if unknown:
        raise SymmetryError(f"neuron group '{name}' has a field '{unknown[0]}'; expected size, kind, symmetry or per")


def _spec(*fields: Any) -> SymmetrySpec:
    return SymmetrySpec(*fields)


def _shapes(state_dict: Checkpoint | Mapping[str, "torch.Tensor"]) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Shape of each tensor, and whether its numbers are floats; from the header alone where there is one."""
    if isinstance(state_dict, Checkpoint):
        from weightspace import dtypes

        return {name: (info.shape, dtypes.dtype(info.dtype).is_float) for name, info in state_dict.info.items()}
    return {name: (tuple(tensor.shape), tensor.is_floating_point()) for name, tensor in state_dict.items()}
