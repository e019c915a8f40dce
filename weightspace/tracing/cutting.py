"""Cuts: the places where a module falls into two, one value alone crossing between them, and the parts between the cuts as modules."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from weightspace.axes import Axis, leaves, show
from weightspace.errors import SymmetryError
from weightspace.spec import SymmetrySpec
from weightspace.tracing.derivation import derived
from weightspace.tracing.graph import exported, read, without_writes
from weightspace.tracing.lines import Lines


@dataclass(frozen=True)
class Cut:
    """A place where one value alone crosses from what runs before to what runs after, with one axis of neurons.

    Attributes:
        name: of the submodule whose weight matrices lie between the cut before and this one.
        shape: of the value that crosses, for one example.
        axis: which of these dimensions counts neurons; the others are places (pixels, tokens).
        group: the groups that index it, in the words of the module's spec.
    """

    name: str
    shape: tuple[int, ...]
    axis: int
    group: str = ""

    @property
    def units(self) -> int:
        """How many neurons cross, at each place."""
        return self.shape[self.axis]

    @property
    def places(self) -> tuple[int, ...]:
        """The sizes of the other dimensions."""
        return self.shape[: self.axis] + self.shape[self.axis + 1 :]


@dataclass(frozen=True)
class Parts:
    """A module fallen apart.

    Attributes:
        modules: in order; one more than cuts. Each is called with what the one before it gave (the first without), then the inputs in `needs`.
        cuts: between them.
        needs: for each module, which of the inputs it is given.
        inputs: names of the module's inputs: keywords, and numbers for those without.
        spec: of the module, not proved.
    """

    modules: tuple[GraphModule, ...]
    cuts: tuple[Cut, ...]
    needs: tuple[tuple[int, ...], ...]
    inputs: tuple[str, ...]
    spec: SymmetrySpec


def cut(module: nn.Module, *example_inputs: Any, **kwargs: Any) -> Parts:
    """Cut a module wherever one value alone crosses, on one axis of which permutable neurons stand.

    Of the places between two weight matrices the last with all that the first of them has is taken: after norm and activation (and where
    tokens get their positions), before pooling and flattening. What the part behind a cut needs besides (masks, positions, and all that
    follows from integer inputs or parameters alone) it computes anew, so nothing else that the inputs say passes by. The parts hold copies
    of the parameters and buffers, under their names, tied where they were; the module is left as it is. What it writes to its buffers,
    the parts do not write.

    Args:
        module: read in eval mode.
        example_inputs: inputs on which it runs, examples along the first dimension; where that is another than of the rest, as of positions
            for all examples, it is built in, and so is what is no tensor.
        kwargs: inputs by keyword; in `Parts` they come last.

    Raises:
        SymmetryError: the path through the module depends on data, torch.export cannot read it, it runs on one size of a batch alone, or an
            input holds several tensors.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> [(one.name, one.shape, one.group) for one in cut(net, torch.randn(2, 4)).cuts]
        [('0', (8,), 'layer0')]
    """
    args, kwargs = _examples(example_inputs, kwargs)
    program = exported(module, args, kwargs, dynamic_shapes=[_open(value) for value in (*args, *kwargs.values())])
    without_writes(program)
    lines = Lines.of(program)
    for node in program.graph.nodes:
        node.meta["val"] = _closed(node.meta.get("val"))
    spec, axes_of = derived(read(program), module)
    found: list[tuple[Node, Cut]] = []
    for run in lines.runs():
        named = {node: place for node in run if (place := _place(lines, node, axes_of(node))) is not None}
        if named:
            first = next(iter(named.values()))
            found.append([(node, one) for node, one in named.items() if one.units == first.units and _count(one) >= _count(first)][-1])
    ends = [node for node, _ in found]
    names = _distinct([lines.name(start, end) for start, end in zip([None, *ends[:-1]], ends, strict=True)] if ends else [])
    cuts = tuple(replace(one, name=name) for name, (_, one) in zip(names, found, strict=True))
    copies = {id(tensor): _copied(tensor) for tensor in lines.tensors.values()}  # what is tied stays so
    holder = {name: copies[id(tensor)] for name, tensor in lines.tensors.items()}
    pieces = [lines.part(holder, start, end) for start, end in zip([None, *ends], [*ends, None], strict=True)]
    inputs = (*(f"input{at}" for at in range(len(args))), *kwargs)
    return Parts(tuple(piece for piece, _ in pieces), cuts, tuple(needs for _, needs in pieces), inputs, spec)


def _place(lines: Lines, node: Node, axes: Sequence[Axis] | None) -> Cut | None:
    """The cut behind a node, if its value is one that may cross."""
    shape = lines.shapes.get(node)
    if shape is None or axes is None or len(shape) < 2 or not node.meta["val"].is_floating_point():
        return None
    if shape[0] != lines.size or not all(isinstance(size, int) for size in shape[1:]):
        return None
    moving = [at for at, axis in enumerate(axes) if any(True for _ in leaves(axis))]
    return Cut("", tuple(shape[1:]), moving[0] - 1, show([axes[moving[0]]])) if len(moving) == 1 and moving[0] > 0 else None


def _count(one: Cut) -> int:
    """How many places there are."""
    return math.prod(one.places)


def _distinct(names: Sequence[str]) -> list[str]:
    """Names with a count behind those that came before."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name}:{seen[name]}")
    return out


def _examples(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Inputs as they are, or those of one example twice: sizes of one are built in.

    Raises:
        SymmetryError: one holds several tensors.
    """
    values = [*args, *kwargs.values()]
    nested = next((value for value in values if isinstance(value, Mapping | tuple | list)), None)
    if nested is not None:
        raise SymmetryError(f"expected tensors as inputs, found a {type(nested).__name__}; wrap the module so that it takes each by itself")
    if any(isinstance(value, Tensor) and value.ndim and len(value) > 1 for value in values):
        return list(args), dict(kwargs)
    twice = [torch.cat([value, value]) if isinstance(value, Tensor) and value.ndim else value for value in values]
    return twice[: len(args)], dict(zip(kwargs, twice[len(args) :], strict=True))


def _open(value: Any) -> Any:
    return {0: torch.export.Dim.AUTO} if isinstance(value, Tensor) and value.ndim else None


def _closed(value: Any) -> Any:
    """What a node yields with sizes of the example in the place of symbols."""
    if isinstance(value, Tensor):
        return torch.empty([_number(size) for size in value.shape], dtype=value.dtype, device="meta")
    if isinstance(value, tuple | list):
        return type(value)(map(_closed, value))
    return _number(value)


def _number(value: Any) -> Any:
    return value.node.hint if isinstance(value, torch.SymInt) else value


def _copied(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return nn.Parameter(copy, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy


__all__ = ["Cut", "Parts", "cut"]
