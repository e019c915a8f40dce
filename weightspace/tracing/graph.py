"""Export: the graph of a module in ATen operations, its inputs told apart, and what of it reaches the output."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from io import StringIO
from typing import Any, cast

import torch
from torch import nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Node

from weightspace.errors import SymmetryError, one_line
from weightspace.modules import shared_copy
from weightspace.proof.arguments import expect_entries
from weightspace.tracing.patterns import fuse
from weightspace.tracing.reader import RULES


@dataclass(frozen=True)
class Graph:
    """The part of an exported module that its output depends on.

    Attributes:
        nodes: in the order in which they run.
        held: for each tensor of the state dict that is read, its nodes' names; several where it is tied.
        inputs: what the user gives.
        constants: buffers outside the state dict and constants of the code.
        written: buffers that running the module changes; what is written to them is no output.
    """

    nodes: tuple[Node, ...]
    held: Mapping[str, Node]
    inputs: tuple[Node, ...]
    constants: tuple[Node, ...]
    written: tuple[str, ...] = ()


def export(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Graph:
    """Export a module in eval mode, keep operations for which there is a rule, and break up all others.

    Raises:
        SymmetryError: the path through the module depends on data, or torch.export cannot read it.
    """
    program = exported(module, args, kwargs)
    written = without_writes(program)
    fuse(program.graph)
    return read(program, written)


def exported(
    module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], *, dynamic_shapes: Sequence[Any] | None = None
) -> torch.export.ExportedProgram:
    """The program of a module in eval mode that returns the tensors among its outputs, without operations that write in place.

    Args:
        module: left as it is.
        args: inputs that it runs on.
        kwargs: inputs by keyword.
        dynamic_shapes: for each input, those by keyword last, the dimensions whose sizes are left open, as torch.export takes them.

    Raises:
        SymmetryError: the path through the module depends on data, or torch.export cannot read it.
    """
    copied = shared_copy(module).eval()  # what forward stores in attributes is of no concern to the module itself
    with torch.no_grad(), _quiet():
        try:
            values, open_ = (*args, *kwargs.values()), None if dynamic_shapes is None else {"inputs": tuple(dynamic_shapes)}
            program = torch.export.export(_Tensors(copied, tuple(kwargs)), values, strict=False, dynamic_shapes=open_)
            return cast(torch.export.ExportedProgram, program.run_decompositions(dict(_decompositions())))
        except Exception as error:
            raise SymmetryError(_explained(error)) from None


class _Tensors(nn.Module):
    """A module whose outputs are the tensors among those of another: caches and other objects are left out.

    Inputs by keyword come last, since torch.export leaves no sizes open of those that a module takes by `**kwargs`.
    """

    def __init__(self, module: nn.Module, keywords: Sequence[str] = ()) -> None:
        super().__init__()
        self.module, self.keywords = module, tuple(keywords)

    def forward(self, *inputs: Any) -> list[torch.Tensor]:
        """Run the other module."""
        count = len(inputs) - len(self.keywords)
        return list(_tensors(self.module(*inputs[:count], **dict(zip(self.keywords, inputs[count:], strict=True)))))


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, (tuple, list)):
        for value in output:
            yield from _tensors(value)
    elif is_dataclass(output):
        for part in fields(output):
            yield from _tensors(getattr(output, part.name))


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings and log lines of torch.export: what goes wrong is said by one error."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@cache
def _decompositions() -> dict[Any, Any]:
    """How to break up the operations for which there is no rule."""
    table: Any = torch.export.default_decompositions()
    return {operation: table[operation] for operation in list(table.keys()) if _name(operation) not in RULES}


def _name(operation: Any) -> str:
    return str(operation._schema.name).split("::")[-1].rstrip("_")


def _explained(error: Exception) -> str:
    text = one_line(str(error).strip().partition("\n")[0], 200)
    if "DataDependent" in type(error).__name__ or "data-dependent" in str(error).lower():
        return _depends_on_data(text)
    return f"torch.export cannot read the module ({type(error).__name__}: {text}); see that it runs on these inputs in eval mode"


def _depends_on_data(what: str) -> str:
    return f"the path through the module depends on the data ({what}); trace a module that takes the same path for every input"


def without_writes(program: torch.export.ExportedProgram) -> tuple[str, ...]:
    """Leave in a graph's output what the user gets, without new values of buffers; the names of those buffers."""
    specs = program.graph_signature.output_specs
    (output,) = (node for node in program.graph.nodes if node.op == "output")
    output.args = (tuple(value for value, spec in zip(output.args[0], specs, strict=True) if spec.kind == OutputKind.USER_OUTPUT),)
    return tuple(str(spec.target).removeprefix("module.") for spec in specs if spec.kind == OutputKind.BUFFER_MUTATION)


def read(program: torch.export.ExportedProgram, written: tuple[str, ...] = ()) -> Graph:
    """The live part of a program, whose nodes hold tensors of known sizes.

    Raises:
        SymmetryError: a size depends on data, or nothing comes out.
    """
    nodes = list(program.graph.nodes)
    alive: set[Node] = set()
    pending = [node for node in nodes if node.op == "output"]
    while pending:
        node = pending.pop()
        if node not in alive:
            alive.add(node)
            pending += node.all_input_nodes
            found = node.meta.get("val")
            if isinstance(found, torch.Tensor) and not all(isinstance(length, int) for length in found.shape):
                raise SymmetryError(_depends_on_data(f"node {node.name} has shape {list(found.shape)}"))
    held: dict[str, Node] = {}
    inputs: list[Node] = []
    constants: list[Node] = []
    by_name = {spec.arg.name: spec for spec in program.graph_signature.input_specs if hasattr(spec.arg, "name")}
    for node in nodes:
        if node.op != "placeholder" or node not in alive or not isinstance(node.meta.get("val"), torch.Tensor):
            continue
        spec = by_name[node.name]
        if spec.kind == InputKind.PARAMETER or (spec.kind == InputKind.BUFFER and spec.persistent):
            held[str(spec.target).removeprefix("module.")] = node
        else:
            (inputs if spec.kind == InputKind.USER_INPUT else constants).append(node)
    graph = Graph(tuple(node for node in nodes if node in alive), held, tuple(inputs), tuple(constants), written)
    ends = [node.meta.get("val") for node in graph.nodes[-1].all_input_nodes]
    expect_entries([value for value in ends if isinstance(value, torch.Tensor)])
    return graph
