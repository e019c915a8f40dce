"""The sizes of neuron groups, solved from the shapes of tensors and from what a configuration says."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from weightspace.axes import Axis, Fixed, Leaf, Product, Sum, canonical, leaves, size
from weightspace.checkpoint import Checkpoint
from weightspace.errors import ShapeMismatchError, SymmetryError, TaskError

if TYPE_CHECKING:
    import torch

BLANK = "_"
"""In a file's axes: an anonymous fixed axis as long as the tensor says."""


@dataclass(frozen=True)
class Header:
    """What is known of a tensor without its values.

    Attributes:
        shape: its shape.
        is_float: whether its elements are floats.
        alias_of: the first name of the same storage, when it is tied.
    """

    shape: tuple[int, ...]
    is_float: bool
    alias_of: str | None = None


def expect_weights(weights: object) -> None:
    """See that something is a checkpoint or a state dict.

    Raises:
        SymmetryError: it is something else, or holds something else than tensors by name.
    """
    if isinstance(weights, Checkpoint):
        return
    import torch

    if not isinstance(weights, Mapping):
        found = f"the text '{weights}'" if isinstance(weights, str) else type(weights).__name__
        advice = "give its state_dict()" if isinstance(weights, torch.nn.Module) else "open a file with ws.open(path)"
        raise SymmetryError(f"expected a checkpoint or a state dict, found {found}; {advice}")
    for name, tensor in weights.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise SymmetryError(
                f"a state dict maps names to torch tensors, found {type(name).__name__} -> {type(tensor).__name__} at '{name}'; "
                "convert it with torch.as_tensor, or leave it out"
            )


def headers(weights: "Checkpoint | Mapping[str, torch.Tensor]") -> dict[str, Header]:
    """Shape, kind and tie of each tensor, without reading values.

    Raises:
        SymmetryError: it is neither a checkpoint nor a state dict.
    """
    expect_weights(weights)
    if isinstance(weights, Checkpoint):
        from weightspace import dtypes

        return {name: Header(one.shape, dtypes.dtype(one.dtype).is_float, one.alias_of) for name, one in weights.info.items()}
    first: dict[tuple[Any, ...], str] = {}
    made: dict[str, Header] = {}
    for name, tensor in weights.items():
        where = (str(tensor.device), tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype)
        owner = first.setdefault(where, name) if tensor.numel() and tensor.device.type != "meta" else name
        made[name] = Header(tuple(tensor.shape), tensor.is_floating_point(), None if owner == name else owner)
    return made


@dataclass(frozen=True)
class Configuration:
    """Where values that shapes cannot tell are looked up by name, dots leading into nested ones.

    Attributes:
        sources: mappings, the first that has the name counts.
        asked: what was found, by name.
    """

    sources: Sequence[Mapping[str, Any]]
    asked: dict[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, weights: object, sizes: Mapping[str, Any] | None = None) -> "Configuration":
        """Gather what is given, the `config.json` beside a checkpoint, its recipe and its metadata."""
        sources: list[Mapping[str, Any]] = [sizes or {}]
        if isinstance(weights, Checkpoint):
            sources += [_config_beside(weights), weights.recipe or {}, weights.metadata]
        return cls(sources)

    def get(self, name: str) -> Any:
        """A value by name, or None."""
        for source in self.sources:
            found: Any = source.get(name)
            if found is None:
                found = source
                for part in name.split("."):
                    found = found.get(part) if isinstance(found, Mapping) else None
            if found is not None and not isinstance(found, Mapping):
                self.asked[name] = found
                return found
        return None

    def number(self, formula: str) -> int | None:
        """The value of names and numbers joined by `*` and `/`, rounded down; None where a name is not known.

        Raises:
            SymmetryError: a value that is no number.
        """
        value = 1.0
        parts = re.split(r"\s*([*/])\s*", formula.strip())
        for at in range(0, len(parts), 2):
            found = float(parts[at]) if re.fullmatch(r"\d+(\.\d+)?", parts[at]) else self.get(parts[at])
            if found is None:
                return None
            if isinstance(found, bool) or not isinstance(found, int | float):
                raise SymmetryError(f"'{parts[at]}' is '{found}' in the configuration; expected a number")
            if at and parts[at - 1] == "/" and not found:
                raise SymmetryError(f"'{parts[at]}' is 0 in the configuration, and '{formula}' divides by it; correct it")
            value = value / found if at and parts[at - 1] == "/" else value * found
        return int(value + 1e-9)


def _config_beside(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """The `config.json` in a checkpoint's folder or that of its file, if there is one."""
    if checkpoint.path is None:
        return {}
    file = (checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent) / "config.json"
    try:
        content = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise TaskError(f"{file} cannot be read as JSON ({error}); mend it or move it away") from None
    return content if isinstance(content, Mapping) else {}


def solve(
    rows: Mapping[str, tuple[Axis, ...]],
    shapes: Mapping[str, tuple[int, ...]],
    known: Mapping[str, int],
    equal: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Find the sizes of groups: from axes in which one size is unknown, over and over until no more are found.

    Args:
        rows: axes of each tensor.
        shapes: shape of each tensor.
        known: sizes to begin with.
        equal: groups that are as large as another.

    Raises:
        ShapeMismatchError: a tensor with another number of axes, or an axis that no size fits.
    """
    of = {group: _end(group, equal or {}) for axes in rows.values() for axis in axes for group in _groups(axis)}
    sizes = {of.get(group, group): n for group, n in known.items()}
    pending = [
        (name, j, axis, shapes[name][j]) for name, axes in rows.items() if _fits(name, axes, shapes[name]) for j, axis in enumerate(axes)
    ]
    while True:
        waiting = []
        for name, j, axis, n in pending:
            unknown = {of[group] for group in _groups(axis)} - sizes.keys()
            if BLANK in unknown or len(unknown) > 1:
                waiting.append((name, j, axis, n))
            elif unknown:
                [group] = unknown
                sizes[group] = _root(axis, n, {g: sizes.get(of[g]) for g in _groups(axis)}, f"tensor '{name}' axis {j}")
        if len(waiting) == len(pending) or not waiting:
            return {group: sizes[end] for group, end in of.items() if end in sizes and group != BLANK}
        pending = waiting


def without_blanks(name: str, axes: Iterable[Axis], shape: Sequence[int], sizes: Mapping[str, int]) -> tuple[Axis, ...]:
    """Put numbers in place of blanks, and leave out groups without members."""
    made = []
    for j, axis in enumerate(axes):
        blanks = sum(leaf.group == BLANK for leaf in leaves(axis))
        if blanks > 1:
            raise SymmetryError(f"tensor '{name}' axis {j} ('{axis}') has {blanks} blanks; give all but one a name")
        if blanks:
            known = {g: sizes.get(g) for g in _groups(axis)}
            made.append(canonical(_with(axis, {**sizes, BLANK: _root(axis, shape[j], known, f"tensor '{name}' axis {j}")})))
        else:
            made.append(canonical(_with(axis, sizes)))
    return tuple(made)


def _with(axis: Axis, sizes: Mapping[str, int]) -> Axis:
    """The axis with numbers for the blank and for groups of no members."""
    if isinstance(axis, Leaf):
        return Fixed(sizes.get(axis.group, 1)) if axis.group == BLANK or sizes.get(axis.group) == 0 else axis
    if isinstance(axis, Product):
        return Product(tuple(_with(factor, sizes) for factor in axis.factors))
    return Sum(tuple(_with(term, sizes) for term in axis.terms)) if isinstance(axis, Sum) else axis


def _groups(axis: Axis) -> set[str]:
    return {leaf.group for leaf in leaves(axis)}


def _end(group: str, equal: Mapping[str, str]) -> str:
    seen = {group}
    while group in equal and equal[group] not in seen:
        group = equal[group]
        seen.add(group)
    return group


def _fits(name: str, axes: Sequence[Axis], shape: Sequence[int]) -> bool:
    if len(axes) == len(shape):
        return True
    said = " ".join(map(str, axes))
    raise ShapeMismatchError(f"tensor '{name}' has {len(shape)} axes (shape {list(shape)}), but the spec says '{said}'; correct the spec")


def _root(axis: Axis, n: int, sizes: Mapping[str, int | None], where: str) -> int:
    """The size of the one unknown group with which an axis has n members; sizes grow with it, so halving finds it."""
    low, high = 0, n
    while low < high:
        middle = (low + high) // 2
        if size(axis, {g: middle if known is None else known for g, known in sizes.items()}) < n:
            low = middle + 1
        else:
            high = middle
    if size(axis, {g: low if known is None else known for g, known in sizes.items()}) != n:
        unknown = next((g for g, known in sizes.items() if known is None and g != BLANK), "")
        told = ", ".join(f"{g} = {known}" for g, known in sizes.items() if known is not None)
        raise ShapeMismatchError(
            f"{where} ('{axis}') has size {n}, which no size{f' of {unknown!r}' if unknown else ''} gives{f' with {told}' if told else ''}; "
            "correct the axes or the sizes"
        )
    return low
