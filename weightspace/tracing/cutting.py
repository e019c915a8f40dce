"""Cuts: the places where a module falls into two, one value alone crossing between them, and the parts between the cuts as modules."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Graph as FxGraph
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from weightspace.axes import Axis, leaves, show
from weightspace.errors import SymmetryError
from weightspace.spec import SymmetrySpec
from weightspace.tracing.derivation import derived
from weightspace.tracing.graph import exported, read, without_writes
from weightspace.tracing.reader import operation_name

CONTRACTIONS = frozenset(
    "linear addmm mm bmm matmul baddbmm einsum embedding conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d "
    "conv_transpose3d lstm gru rnn_tanh rnn_relu".split()
)
"""Operations that read a value by a weight matrix: there is one at least between two cuts."""

_OPEN = "the size of a batch is built into the module, so that its parts run on no other; give its parts yourself, as a list of blocks"


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
    lines = _Lines.of(program)
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


@dataclass
class _Lines:
    """A program with what each of its nodes follows from.

    Attributes:
        nodes: all of them, in order.
        inputs: what the user gives.
        names: of the tensors that placeholders hold.
        tensors: those, by name.
        data: nodes that follow from what the user gives, but for sizes and what integers alone say.
        size: the symbol of the batch.
        shapes: of the tensors that nodes yield, with the symbol in them.
    """

    nodes: list[Node]
    inputs: list[Node]
    names: dict[Node, str]
    tensors: dict[str, Tensor]
    size: Any
    shapes: dict[Node, tuple[Any, ...]]
    data: set[Node] = field(default_factory=set)
    weighted: dict[Node, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, program: torch.export.ExportedProgram) -> "_Lines":
        """Read a program."""
        kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
        nodes = list(program.graph.nodes)
        shapes = {node: tuple(map(_settled, value.shape)) for node in nodes if isinstance(value := node.meta.get("val"), Tensor)}
        inputs, names, tensors = [], {}, {}
        state = {**program.state_dict, **program.constants}
        for node in nodes:
            if node.op == "placeholder" and kinds[node.name].kind == InputKind.USER_INPUT:
                inputs.append(node)
            elif node.op == "placeholder":
                target = str(kinds[node.name].target)
                names[node] = target.removeprefix("module.")
                tensors[names[node]] = state[target]
        # An input without it has no examples, such as positions that are the same for all.
        sizes = [shapes[node][0] for node in inputs if shapes.get(node) and isinstance(shapes[node][0], torch.SymInt)]
        if not sizes or not all(size == sizes[0] for size in sizes):
            raise SymmetryError(_OPEN)
        made = cls(nodes, inputs, names, tensors, sizes[0], shapes)
        made._follow()
        return made

    def _follow(self) -> None:
        """Find what follows from the inputs, and which parameters each node reads by itself or through what follows from them alone."""
        integers = {node for node in self.inputs if not (isinstance(value := node.meta["val"], Tensor) and value.is_floating_point())}
        self.data |= set(self.inputs) - integers
        for node in self.nodes:
            if node.op == "placeholder":
                name = self.names.get(node)
                self.weighted[node] = {name} if name is not None and isinstance(self.tensors[name], nn.Parameter) else set()
            elif self._is_size(node):
                self.weighted[node] = set()
            else:
                sources = node.all_input_nodes
                self.weighted[node] = set().union(*(self.weighted[one] for one in sources if one not in self.data))
                if any(one in integers for one in sources):
                    integers.add(node)
                if any(one in self.data for one in sources) or (node in integers and self.weighted[node]):
                    self.data.add(node)

    def _is_size(self, node: Node) -> bool:
        return node.op == "call_function" and operation_name(node) == "sym_size"

    def _reads(self, node: Node) -> bool:
        """Whether it contracts a value with a weight."""
        return node.op == "call_function" and operation_name(node) in CONTRACTIONS and bool(self.weighted[node])

    def runs(self) -> Iterator[list[Node]]:
        """Places where one value alone crosses, those together between which no weight matrix is read."""
        place = {node: at for at, node in enumerate(self.nodes)}
        last = {node: max((place[user] for user in node.users if not self._is_size(user)), default=-1) for node in self.data}
        sources = [
            place[node] for node in self.data if node.op != "placeholder" and not any(one in self.data for one in node.all_input_nodes)
        ]
        run: list[Node] = []
        active: set[Node] = {node for node in self.inputs if node in self.data}
        for at, node in enumerate(self.nodes):
            if node.op != "call_function" or node not in self.data:
                continue
            if self._reads(node) and run:
                yield run
                run = []
            active = {one for one in active if last[one] > at} | {node}
            if len(active) == 1 and last[node] > at and all(source <= at for source in sources):
                run.append(node)
        if run:
            yield run

    def name(self, start: Node | None, end: Node) -> str:
        """The submodule that the weight matrices between two places have in common, or that of the last."""
        at = self.nodes.index(start) + 1 if start is not None else 0
        paths = [self._path(node) for node in self.nodes[at : self.nodes.index(end) + 1] if node in self.data and self._reads(node)]
        common = _common(paths)
        return common or (paths[-1] if paths else end.name)

    def _path(self, node: Node) -> str:
        """The submodule that runs an operation; where that is the module itself, the owner of the operation's parameters, or their name."""
        stack = node.meta.get("nn_module_stack") or {}
        paths = (str(path).removeprefix("module").removeprefix(".") for path, _ in reversed(stack.values()))
        name = min(self.weighted[node])
        return next(filter(None, paths), name.rpartition(".")[0] or name)

    def part(self, holder: Mapping[str, Tensor], start: Node | None, end: Node | None) -> tuple[GraphModule, tuple[int, ...]]:
        """What runs between two places, as a module with the inputs that it needs."""
        wanted, pending = set(), [end if end is not None else self.nodes[-1]]
        while pending:
            node = pending.pop()
            if node not in wanted and node is not start:
                wanted.add(node)
                pending += [] if start is not None and self._is_batch(node) else node.all_input_nodes
        graph, copies = FxGraph(), dict[Node, Node]()
        needs = tuple(at for at, node in enumerate(self.inputs) if node in wanted or start is None)
        if start is not None:
            copies[start] = graph.placeholder("features")
        for at in needs:
            copies[self.inputs[at]] = graph.placeholder(self.inputs[at].name)
        for node in self.nodes:
            if node not in wanted or node in copies:
                continue
            if node in self.names:
                copies[node] = graph.get_attr(self.names[node])
            elif start is not None and self._is_batch(node):
                copies[node] = graph.call_function(torch.ops.aten.sym_size.int, (copies[start], 0))
            elif node.op == "output":
                values = node.args[0]
                graph.output(map_arg(values, copies.__getitem__))
            elif operation_name(node) != "_assert_tensor_metadata":
                copies[node] = graph.node_copy(node, copies.__getitem__)
        if end is not None:
            graph.output(copies[end])
        used = {node.target for node in graph.nodes if node.op == "get_attr"}
        made = GraphModule(Holder({name: holder[name] for name in used}), graph, "Part")
        return made, needs

    def _is_batch(self, node: Node) -> bool:
        """Whether it is the size of the batch, which the value that crosses has as well."""
        if not self._is_size(node):
            return False
        source, dim = node.args
        return isinstance(source, Node) and isinstance(dim, int) and bool(self.shapes[source][dim] == self.size)


class Holder(nn.Module):
    """Parameters and buffers under names with dots."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            *path, last = name.split(".")
            owner: nn.Module = self
            for step in path:
                if step not in owner._modules:
                    owner.add_module(step, nn.Module())
                owner = owner.get_submodule(step)
            if isinstance(tensor, nn.Parameter):
                owner.register_parameter(last, tensor)
            else:
                owner.register_buffer(last, tensor)


def _place(lines: _Lines, node: Node, axes: Sequence[Axis] | None) -> Cut | None:
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


def _common(paths: Sequence[str]) -> str:
    """The longest beginning of dotted names that all share."""
    out = []
    for steps in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(steps)) > 1:
            break
        out.append(steps[0])
    return ".".join(out)


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


def _settled(size: Any) -> Any:
    """A size as a number where tracing has settled it, as `len(x)` does."""
    number = size.node.maybe_as_int() if isinstance(size, torch.SymInt) else size
    return size if number is None else number


def _number(value: Any) -> Any:
    return value.node.hint if isinstance(value, torch.SymInt) else value


def _copied(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return nn.Parameter(copy, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy


__all__ = ["CONTRACTIONS", "Cut", "Parts", "cut"]
