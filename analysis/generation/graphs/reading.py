"""From a module and an example to its graph of primitives, read off the ATen operations that torch.export finds."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.fx import Node

from weightspace.analysis.generation.graphs.graph import ArchitectureGraph, Role, Sizes, sizes_of
from weightspace.errors import GenerationError, SymmetryError
from weightspace.tracing.graph import Graph, export
from weightspace.tracing.reader import operation_name

Sources: TypeAlias = tuple[int, ...]
"""Nodes of the graph that a value comes from."""

_NORMS = {
    "batch_norm": "bn",
    "_native_batch_norm_legit_no_training": "bn",
    "layer_norm": "ln",
    "group_norm": "ln",
    "instance_norm": "ln",
    "rms_norm": "ln",
}
_JOINS = {
    "add": "sum",
    "sub": "sum",
    "cat": "concat",
    "stack": "concat",
    "mul": "cse",
    "matmul": "msa",
    "bmm": "msa",
    "scaled_dot_product_attention": "msa",
}
_POOLS = {"max_pool": "max_pool", "adaptive_avg_pool": "glob_avg", "avg_pool": "avg_pool", "mean": "glob_avg"}
_LINEAR = ("conv", "sep_conv", "dil_conv")
_POINTWISE = ("add", "sub", "mul", "div", "cat", "stack", "where", "embedding")
"""Operations in which a parameter is no linear map: what has a place for each value is a position encoding there, or an embedding."""


def read(module: nn.Module, *example_inputs: Tensor) -> ArchitectureGraph:
    """Read the graph of an architecture (Knyazev et al., arXiv:2110.13100, section 3.1).

    A linear map, its bias and a norm are nodes each; so are pools, sums, concatenations, products of two values (`cse`) and attention.
    What is left out, such as activations and views, hands on what it is given. A parameter that serves twice is made by the first node.

    Args:
        module: read in eval mode; it is left as it is.
        example_inputs: inputs on which it runs.

    Raises:
        GenerationError: torch.export cannot read it.
    """
    try:
        traced = export(module, example_inputs, {})
    except SymmetryError as error:
        raise GenerationError(f"the graph of module {type(module).__name__} cannot be read: {error}") from None
    return _Reading(module, traced).graph()


class _Reading:
    """A graph in the making."""

    def __init__(self, module: nn.Module, traced: Graph) -> None:
        names = {id(tensor): name for name, tensor in reversed(list(module.named_parameters(remove_duplicate=False)))}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in module.named_parameters()}
        owners = {name: names[id(tensor)] for name, tensor in module.named_parameters(remove_duplicate=False)}
        self.held: dict[Node, tuple[str, ...]] = {node: (owners[name],) for name, node in traced.held.items() if name in owners}
        self.sources: dict[Node, Sources] = {}
        self.traced = traced
        self.primitives: list[str] = []
        self.sizes: list[Sizes] = []
        self.edges: list[tuple[int, int]] = []
        self.tensors: dict[str, tuple[int, Role]] = {}

    def graph(self) -> ArchitectureGraph:
        for node in self.traced.inputs:
            self.sources[node] = (self._add("input", ()),)
        for node in self.traced.nodes:
            if node.op == "call_function":
                self._read(node)
        for name, shape in self.shapes.items():
            if name not in self.tensors:  # nothing reads it
                self._make(name, "conv" if len(shape) > 1 else "bias", (), "matrix" if len(shape) > 1 else "shift")
        return ArchitectureGraph(tuple(self._named()), tuple(self.sizes), tuple(self.edges), self.tensors)

    def _read(self, node: Node) -> None:
        given = [one for one in node.all_input_nodes if one in self.sources]
        names = list(dict.fromkeys(name for one in node.all_input_nodes for name in self.held.get(one, ())))
        if not given:
            self.held[node] = tuple(names)  # of parameters alone, such as a view of one
            return
        sources = tuple(dict.fromkeys(source for one in given for source in self.sources[one]))
        operation = operation_name(node)
        join = _JOINS.get(operation) if len(given) > 1 else None
        pool = next((primitive for begin, primitive in _POOLS.items() if operation.lstrip("_").startswith(begin)), None)
        if names:
            sources = self._parameters(node, operation, names, sources)
        elif join or pool:
            sources = (self._add(join or pool or "", sources),)
        self.sources[node] = sources

    def _parameters(self, node: Node, operation: str, names: Sequence[str], sources: Sources) -> Sources:
        """Nodes for the parameters of an operation, one after the other; a norm is one node."""
        if operation in _NORMS:
            at = self._add(_NORMS[operation], sources, sizes_of(self.shapes[names[0]]))
            shifts = _arguments_named(node, "bias")
            for name in names:
                is_shift = any(name in self.held.get(one, ()) for one in shifts)
                self.tensors.setdefault(name, (at, "shift" if is_shift else "scale"))
            return (at,)
        for name in sorted(names, key=lambda one: -len(self.shapes[one])):
            sources = (self._make(name, *self._kind(node, operation, name, sources)),)
        return sources

    def _kind(self, node: Node, operation: str, name: str, sources: Sources) -> tuple[str, Sources, Role]:
        """A parameter's primitive, where its node's data comes from, and its role."""
        places = sum(size > 1 for size in self.shapes[name])
        if operation == "embedding" or (operation in _POINTWISE and places > 1):
            return "pos_enc", sources, "position"
        if operation in ("mul", "div"):
            return "ln", sources, "scale"
        if operation in _POINTWISE or len(self.shapes[name]) < 2:
            return "bias", sources, "shift"
        return _convolution(node), sources, "matrix"

    def _make(self, name: str, primitive: str, sources: Sources, role: Role) -> int:
        at = self._add(primitive, sources, sizes_of(self.shapes[name]))
        self.tensors.setdefault(name, (at, role))
        return at

    def _add(self, primitive: str, sources: Sources, sizes: Sizes = (0, 0, 0, 0)) -> int:
        at = len(self.primitives)
        self.primitives.append(primitive)
        self.sizes.append(sizes)
        self.edges += [(source, at) for source in sources]
        return at

    def _named(self) -> list[str]:
        """The primitives, with those called class layers that no linear map follows, and their biases likewise."""
        linear = {at for at, primitive in enumerate(self.primitives) if primitive in _LINEAR}
        before: set[int] = set()  # nodes that a linear map follows
        for source, target in sorted(self.edges, key=lambda edge: -edge[1]):
            if target in linear or target in before:
                before.add(source)
        joined = {target for _, target in self.edges}
        last = {node for node in linear - before if node in joined and self.primitives[node] == "conv"}
        biases = {target for source, target in self.edges if source in last and self.primitives[target] == "bias"}
        return ["class_layer" if at in last else "class_bias" if at in biases else one for at, one in enumerate(self.primitives)]


def _convolution(node: Node) -> str:
    """Whether a linear map is a convolution in groups, a dilated one, or any other."""
    groups = _arguments_named(node, "groups")
    dilation = _arguments_named(node, "dilation")
    if any(isinstance(one, int) and one > 1 for one in groups):
        return "sep_conv"
    widest = max(
        (step for one in dilation for step in (one if isinstance(one, (list, tuple)) else [one]) if isinstance(step, int)), default=1
    )
    return "dil_conv" if widest > 1 else "conv"


def _arguments_named(node: Node, name: str) -> list[Any]:
    """An argument of an operation, by its name in the operation's schema; none where it has no such argument, or it is not given."""
    schema = getattr(node.target, "_schema", None)
    given = {} if schema is None else dict(zip((one.name for one in schema.arguments), node.args, strict=False)) | dict(node.kwargs)
    return [given[name]] if name in given else []


__all__ = ["read"]
