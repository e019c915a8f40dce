"""Lines: which values of a program follow from its inputs, where one of them alone crosses, and what runs between two such places."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind
from torch.fx import Graph as FxGraph
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from weightspace.errors import SymmetryError
from weightspace.tracing.reader import operation_name

CONTRACTIONS = frozenset(
    "linear addmm mm bmm matmul baddbmm einsum embedding conv1d conv2d conv3d convolution conv_transpose1d conv_transpose2d "
    "conv_transpose3d lstm gru rnn_tanh rnn_relu".split()
)
"""Operations that read a value by a weight matrix: there is one at least between two cuts."""

_OPEN = "the size of a batch is built into the module, so that its parts run on no other; give its parts yourself, as a list of blocks"


@dataclass
class Lines:
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
    def of(cls, program: torch.export.ExportedProgram) -> "Lines":
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


def _common(paths: Sequence[str]) -> str:
    """The longest beginning of dotted names that all share."""
    out = []
    for steps in zip(*(path.split(".") for path in paths), strict=False):
        if len(set(steps)) > 1:
            break
        out.append(steps[0])
    return ".".join(out)


def _settled(size: Any) -> Any:
    """A size as a number where tracing has settled it, as `len(x)` does."""
    number = size.node.maybe_as_int() if isinstance(size, torch.SymInt) else size
    return size if number is None else number


__all__ = ["CONTRACTIONS", "Holder", "Lines"]
