"""A module as a float64 function of named weights and inputs."""

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

from weightspace.checkpoint import Checkpoint, state_of
from weightspace.errors import ShapeMismatchError, SymmetryError, one_line
from weightspace.proof.arguments import expect_entries, expect_module, expect_values
from weightspace.proof.sharing import tied
from weightspace.symmetry import StateDict

ROUNDED = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.complex64: torch.complex128}
UNLIFTED_TOLERANCE = 1e-5  # of a module whose float32 casts could not be lifted


@dataclass(frozen=True, eq=False)
class Network:
    """A module in eval mode as a function in float64.

    Attributes:
        run: from tensors by name and the leaves of the inputs to all output tensors.
        state: the module's own tensors, floats as float64; a tied tensor under each of its names.
        parameters: names of those that are parameters, not buffers.
        embeddings: names of lookup tables, whose rows are activations.
        ties: for each further name of a tied tensor the first one.
        inputs: the leaves of the example inputs, floats as float64.
        tolerance: the relative change that rounding alone may cause.
        note: what is to be known of a proof about it: that the tolerance is a loose one, or what was lifted; or nothing.
    """

    run: Callable[[StateDict, Sequence[Any]], list[Tensor]]
    state: StateDict
    parameters: frozenset[str]
    embeddings: frozenset[str]
    ties: Mapping[str, str]
    inputs: tuple[Any, ...]
    tolerance: float = 0.0
    note: str = ""

    def __call__(self, state: StateDict, inputs: Sequence[Any]) -> list[Tensor]:
        """All output tensors at the given weights; names left out keep the module's own values."""
        copied = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in inputs]  # a module may write to its inputs
        whole = {**self.state, **state}
        whole |= {name: tensor.clone() for name, tensor in whole.items() if name not in self.parameters}  # and to its buffers
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batched backward
            return self.run(whole, copied)


def network(module: nn.Module, inputs: Sequence[Any], keywords: Mapping[str, Any] | None = None) -> Network:
    """Lift a module to float64: export its graph and widen every cast in it; the module itself is left as it is.

    Args:
        module: on any device and of any float type.
        inputs: what it is called with.
        keywords: what it is called with by keyword.

    Raises:
        SymmetryError: the module does not run on the inputs, or returns no tensor.
    """
    expect_values(module, (tuple(inputs), dict(keywords or {})))
    copied = _copied(module)
    own = {name: tensor for name, tensor in module.state_dict(keep_vars=True).items() if isinstance(tensor, Tensor)}
    flat, layout = tree_flatten((tuple(inputs), _in_order(module, keywords or {})))
    flat = [_widened(leaf) for leaf in flat]
    arguments = tree_unflatten(flat, layout)
    exported, loose, note = _exported(copied, *arguments), 0.0, ""
    if isinstance(exported, str):
        loose, note = (
            UNLIFTED_TOLERANCE,
            f"the module's graph cannot be exported ({exported}): proved to {UNLIFTED_TOLERANCE:g} with its float32 casts",
        )
        run = _called(copied, layout)
    else:
        run, narrow = exported
        partly = sorted(str(dtype).removeprefix("torch.") for dtype in narrow - {tensor.dtype for tensor in own.values()})
        note = f"the module computes partly in {' and '.join(partly)}: proved for exact arithmetic" if partly else ""
    state = dict(copied.state_dict(keep_vars=True))
    ties = tied(own)
    state |= {name: state[owner] for name, owner in ties.items()}  # of two views of the same memory a copy makes two tensors
    lookups = (f"{name}.weight" for name, part in copied.named_modules() if isinstance(part, nn.Embedding))
    made = Network(
        run,
        {name: tensor.detach() for name, tensor in state.items()},
        frozenset(name for name, _ in copied.named_parameters(remove_duplicate=False)),
        frozenset(name.removeprefix(".") for name in lookups),
        ties,
        tuple(flat),
        loose,
        note,
    )
    _see_that_it_runs(made)
    return made


def _copied(module: nn.Module) -> nn.Module:
    """A float64 copy in eval mode; tensors in plain attributes, which may be computed from others, are copied as constants."""
    state = {id(tensor) for tensor in (*module.parameters(), *module.buffers())}
    plain = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor) and id(value) not in state]
    try:
        copied = copy.deepcopy(module, {id(tensor): _widened(tensor).clone() for tensor in plain})
    except Exception as error:
        raise SymmetryError(
            f"module {type(module).__name__} cannot be copied ({type(error).__name__}: {one_line(str(error), 200)}); "
            "expected one that copy.deepcopy takes; keep tensors with a history, locks and open files out of its attributes"
        ) from None
    return copied.to("cpu").double().eval()


def _in_order(module: nn.Module, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords in the order of the module's signature, in which its graph takes them."""
    order = list(inspect.signature(module.forward).parameters)
    return {name: keywords[name] for name in sorted(keywords, key=lambda name: order.index(name) if name in order else len(order))}


def _see_that_it_runs(made: Network) -> None:
    with torch.no_grad():
        try:
            once, again = made({}, made.inputs), made({}, made.inputs)
        except Exception as error:
            raise SymmetryError(f"the module does not run on the example inputs: {error}; give inputs that it takes") from None
    if not once:
        raise SymmetryError("the module returns no tensor, so nothing can be proved about it; return the outputs that matter")
    expect_entries(once)
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(once, again, strict=True)):
        raise SymmetryError("the module returns something else each time although it is in eval mode; draw no random numbers in forward")


def _widened(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.detach().to("cpu").to(ROUNDED.get(leaf.dtype, leaf.dtype))


def _exported(
    module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[Callable[[StateDict, Sequence[Any]], list[Tensor]], set[torch.dtype]] | str:
    """The graph of a module as a function of its tensors, in float64 throughout, and half types that it named; or why there is none."""
    from torch.export import export
    from torch.export.graph_signature import InputKind, OutputKind

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = export(module, arguments, keywords, strict=False)
        except Exception as error:
            return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
    graph = program.graph_module
    narrow: set[torch.dtype] = set()
    for part in graph.modules():
        if isinstance(part, torch.fx.GraphModule):
            narrow |= _lift_casts(part)
    constants = {name: _widened(value) for name, value in program.constants.items()}

    def fresh(name: str, state: StateDict) -> Any:  # a module may write to its buffers
        found = state.get(name, constants.get(name))
        return found.clone() if name in constants and isinstance(found, Tensor) else found

    wanted = [spec.kind == OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs]
    sources = [None if spec.kind == InputKind.USER_INPUT else spec.target for spec in program.graph_signature.input_specs]

    def run(state: StateDict, inputs: Sequence[Any]) -> list[Tensor]:
        given = iter(inputs)
        outputs = graph(*(next(given) if name is None else fresh(name, state) for name in sources))
        return [value for value, keep in zip(outputs, wanted, strict=True) if keep and isinstance(value, Tensor)]

    return run, narrow


def _lift_casts(part: torch.fx.GraphModule) -> set[torch.dtype]:
    """Rewrite every narrower float type that a graph names, or makes by default, to float64; which half types were among them."""
    named_types: set[Any] = set()
    for node in list(part.graph.nodes):
        if node.op != "call_function":
            continue
        if "_assert_tensor_metadata" in str(node.target):
            part.graph.erase_node(node)
            continue
        named_types.update(arg for arg in (*node.args, *node.kwargs.values()) if isinstance(arg, torch.dtype))
        node.args = tuple(ROUNDED.get(arg, arg) if isinstance(arg, torch.dtype) else arg for arg in node.args)
        node.kwargs = {key: ROUNDED.get(arg, arg) if isinstance(arg, torch.dtype) else arg for key, arg in node.kwargs.items()}
        schema = getattr(node.target, "_schema", None)
        made = getattr(node.meta.get("val"), "dtype", None)
        named = {argument.name: j for j, argument in enumerate(schema.arguments)} if schema is not None else {}
        is_factory = schema is not None and not any("Tensor" in str(argument.type) for argument in schema.arguments)
        if is_factory and made in ROUNDED and "dtype" in named and len(node.args) <= named["dtype"]:
            node.kwargs = {**node.kwargs, "dtype": ROUNDED[made]}
    part.recompile()
    return named_types & {torch.float16, torch.bfloat16}


def _called(module: nn.Module, layout: Any) -> Callable[[StateDict, Sequence[Any]], list[Tensor]]:
    """A module as it is, called with other tensors."""

    def run(state: StateDict, inputs: Sequence[Any]) -> list[Tensor]:
        arguments, keywords = tree_unflatten(list(inputs), layout)
        outputs = torch.func.functional_call(module, dict(state), arguments, keywords)
        return list(_tensors(outputs))

    return run


def _tensors(outputs: Any) -> Iterator[Tensor]:
    """Every tensor in what a module returns."""
    if isinstance(outputs, Tensor):
        yield outputs
    elif isinstance(outputs, Mapping):
        for value in outputs.values():
            yield from _tensors(value)
    elif isinstance(outputs, (list, tuple)):
        for value in outputs:
            yield from _tensors(value)
    elif hasattr(outputs, "__dataclass_fields__"):
        for name in outputs.__dataclass_fields__:
            yield from _tensors(getattr(outputs, name))


def change(outputs: Sequence[Tensor], before: Sequence[Tensor]) -> float:
    """Relative change of outputs: the largest, over the output tensors, of the norm of the difference by the norm before."""
    worst = 0.0
    for new, old in zip(outputs, before, strict=True):
        if not (old.is_floating_point() or old.is_complex()):
            worst = max(worst, 0.0 if torch.equal(new, old) else 1.0)
            continue
        finite = old.isfinite()
        if not torch.equal(finite, new.isfinite()) or not torch.equal(new[~finite].nan_to_num(), old[~finite].nan_to_num()):
            return math.inf
        off, norm = float((new - old)[finite].abs().norm()), float(old[finite].abs().norm())
        worst = max(worst, off / norm if norm else (math.inf if off else 0.0))
    return worst


def function_change(
    module: nn.Module,
    before: StateDict | Checkpoint,
    after: StateDict | Checkpoint,
    *inputs: Any,
    keywords: Mapping[str, Any] | None = None,
) -> float:
    """How much a module's outputs change between two state dicts, in float64 where its graph can be exported.

    Args:
        module: of the architecture of both; its own weights play no part.
        before: weights, which may leave out further names of tied tensors.
        after: other weights.
        inputs: what the module is called with.
        keywords: what it is called with by keyword.

    Returns:
        The largest, over the outputs, of the norm of the difference relative to the norm before.

    Raises:
        SymmetryError: a tensor of the module is missing, or the module does not run on the inputs.
        ShapeMismatchError: a tensor has another shape in the module.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> function_change(layer, layer.state_dict(), layer.state_dict(), torch.ones(1, 3))
        0.0
    """
    expect_module(module)
    lifted = network(module, inputs, keywords)
    with torch.no_grad():
        outputs = [lifted(_named(lifted, state), lifted.inputs) for state in (before, after)]
    return change(outputs[1], outputs[0])


def _named(lifted: Network, weights: StateDict | Checkpoint) -> dict[str, Tensor]:
    """Tensors under every name that the module has for them."""
    given = state_of(weights)
    shared = {lifted.ties.get(name, name): tensor for name, tensor in given.items()}
    state: dict[str, Tensor] = {}
    for name in lifted.state:
        tensor = given.get(name, shared.get(lifted.ties.get(name, name)))
        if tensor is None:
            raise SymmetryError(f"the module has a tensor '{name}', which the weights lack; give weights of this module")
        if tensor.shape != lifted.state[name].shape:
            raise ShapeMismatchError(
                f"tensor '{name}' has shape {tuple(tensor.shape)} in the weights but {tuple(lifted.state[name].shape)} in the module; "
                "give weights of this module"
            )
        state[name] = _widened(tensor)
    return state
