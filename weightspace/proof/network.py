"""A module as a float64 function of named weights and inputs, with both drawn anew."""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_unflatten

from weightspace.axes import leaves
from weightspace.checkpoint import Checkpoint
from weightspace.errors import SymmetryError
from weightspace.spec import SymmetrySpec

StateDict = Mapping[str, Tensor]
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
        note: why the tolerance is a loose one, or nothing.
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
        with sdpa_kernel(SDPBackend.MATH):  # the fused kernels have no batched backward
            return self.run({**self.state, **state}, copied)


def network(module: nn.Module, inputs: Sequence[Any]) -> Network:
    """Lift a module to float64: export its graph and widen every cast in it; the module itself is left as it is.

    Raises:
        SymmetryError: the module does not run on the inputs, or returns no tensor.
    """
    copied = copy.deepcopy(module).to("cpu").double().eval()
    flat, layout = tree_flatten(tuple(inputs))
    flat = [_widened(leaf) for leaf in flat]
    arguments = tree_unflatten(flat, layout)
    run, loose, note = _exported(copied, arguments), 0.0, ""
    if isinstance(run, str):
        loose, note = (
            UNLIFTED_TOLERANCE,
            f"the module's graph cannot be exported ({run}): proved to {UNLIFTED_TOLERANCE:g} with its float32 casts",
        )
        run = _called(copied, layout)
    state = dict(copied.state_dict(keep_vars=True))
    first: dict[int, str] = {}
    ties = {name: first[id(tensor)] for name, tensor in state.items() if first.setdefault(id(tensor), name) != name}
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


def _see_that_it_runs(made: Network) -> None:
    with torch.no_grad():
        try:
            once, again = made({}, made.inputs), made({}, made.inputs)
        except Exception as error:
            raise SymmetryError(f"the module does not run on the example inputs: {error}; give inputs that it takes") from None
    if not once:
        raise SymmetryError("the module returns no tensor, so nothing can be proved about it; return the outputs that matter")
    if not all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(once, again, strict=True)):
        raise SymmetryError("the module returns something else each time although it is in eval mode; draw no random numbers in forward")


def _widened(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    return leaf.detach().to("cpu").to(ROUNDED.get(leaf.dtype, leaf.dtype))


def _exported(module: nn.Module, arguments: tuple[Any, ...]) -> Callable[[StateDict, Sequence[Any]], list[Tensor]] | str:
    """The graph of a module as a function of its tensors, in float64 throughout; or why there is none."""
    from torch.export import export
    from torch.export.graph_signature import InputKind, OutputKind

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = export(module, arguments, strict=False)
        except Exception as error:
            return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
    graph = program.graph_module
    for part in graph.modules():
        if isinstance(part, torch.fx.GraphModule):
            _lift_casts(part)
    constants = {name: _widened(value) for name, value in program.constants.items()}
    wanted = [spec.kind == OutputKind.USER_OUTPUT for spec in program.graph_signature.output_specs]
    sources = [None if spec.kind == InputKind.USER_INPUT else spec.target for spec in program.graph_signature.input_specs]

    def run(state: StateDict, inputs: Sequence[Any]) -> list[Tensor]:
        given = iter(inputs)
        known = {**constants, **state}
        outputs = graph(*(next(given) if name is None else known[name] for name in sources))
        return [value for value, keep in zip(outputs, wanted, strict=True) if keep and isinstance(value, Tensor)]

    return run


def _lift_casts(part: torch.fx.GraphModule) -> None:
    """Rewrite every narrower float type that a graph names, or makes by default, to float64."""
    for node in list(part.graph.nodes):
        if node.op != "call_function":
            continue
        if "_assert_tensor_metadata" in str(node.target):
            part.graph.erase_node(node)
            continue
        node.args = tuple(ROUNDED.get(arg, arg) if isinstance(arg, torch.dtype) else arg for arg in node.args)
        node.kwargs = {key: ROUNDED.get(arg, arg) if isinstance(arg, torch.dtype) else arg for key, arg in node.kwargs.items()}
        schema = getattr(node.target, "_schema", None)
        made = getattr(node.meta.get("val"), "dtype", None)
        named = {argument.name: j for j, argument in enumerate(schema.arguments)} if schema is not None else {}
        is_factory = schema is not None and not any("Tensor" in str(argument.type) for argument in schema.arguments)
        if is_factory and made in ROUNDED and "dtype" in named and len(node.args) <= named["dtype"]:
            node.kwargs = {**node.kwargs, "dtype": ROUNDED[made]}
    part.recompile()


def _called(module: nn.Module, layout: Any) -> Callable[[StateDict, Sequence[Any]], list[Tensor]]:
    """A module as it is, called with other tensors."""

    def run(state: StateDict, inputs: Sequence[Any]) -> list[Tensor]:
        outputs = torch.func.functional_call(module, dict(state), tree_unflatten(list(inputs), layout))
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


def function_change(module: nn.Module, before: StateDict | Checkpoint, after: StateDict | Checkpoint, *inputs: Any) -> float:
    """How much a module's outputs change between two state dicts, in float64 where its graph can be exported.

    Args:
        module: of the architecture of both; its own weights play no part.
        before: weights, which may leave out further names of tied tensors.
        after: other weights.
        inputs: what the module is called with.

    Returns:
        The largest, over the outputs, of the norm of the difference relative to the norm before.

    Raises:
        SymmetryError: a tensor of the module is missing, or the module does not run on the inputs.

    Example:
        >>> layer = nn.Linear(3, 2)
        >>> function_change(layer, layer.state_dict(), layer.state_dict(), torch.ones(1, 3))
        0.0
    """
    lifted = network(module, inputs)
    with torch.no_grad():
        outputs = [lifted(_named(lifted, state), lifted.inputs) for state in (before, after)]
    return change(outputs[1], outputs[0])


def _named(lifted: Network, weights: StateDict | Checkpoint) -> dict[str, Tensor]:
    """Tensors under every name that the module has for them."""
    given = weights.state_dict() if isinstance(weights, Checkpoint) else weights
    shared = {lifted.ties.get(name, name): tensor for name, tensor in given.items()}
    state: dict[str, Tensor] = {}
    for name in lifted.state:
        tensor = given.get(name, shared.get(lifted.ties.get(name, name)))
        if tensor is None:
            raise SymmetryError(f"the module has a tensor '{name}', which the weights lack; give weights of this module")
        state[name] = _widened(tensor)
    return state


@dataclass(frozen=True, eq=False)
class Trial:
    """A network at weights and inputs drawn at random, and what it returns there."""

    network: Network
    state: StateDict
    inputs: tuple[Any, ...]
    outputs: tuple[Tensor, ...]

    def change(self, state: StateDict) -> float:
        """Relative change of the outputs at other weights."""
        with torch.no_grad():
            return change(self.network(state, self.inputs), self.outputs)


def draw(
    lifted: Network, spec: SymmetrySpec, generator: torch.Generator, *, tolerance: float = 1e-9, louder: Mapping[str, float] | None = None
) -> Trial:
    """Draw weights and inputs at which a network is well conditioned.

    Rounding every weight once must change the outputs far less than the tolerance: a deep network of steep units would
    otherwise amplify rounding, and a sound spec would fail. Matrices are drawn smaller until it holds.

    Args:
        lifted: the network.
        spec: whose tensors are drawn anew; the others stay as they are.
        generator: source of chance.
        tolerance: relative change that is to be told from rounding.
        louder: factors by tensor name, for tensors whose effect is weak.

    Raises:
        SymmetryError: the outputs are not finite at any draw.
    """
    spread, found = 1.0, None
    for attempt in range(8):
        state = redraw(lifted, spec, generator, spread, louder or {})
        inputs = redraw_inputs(lifted.inputs, generator, as_given=attempt % 2 == 1)
        with torch.no_grad():
            outputs = tuple(lifted(state, inputs))
        if all(not output.isnan().any() for output in outputs):
            found = Trial(lifted, state, inputs, outputs)
            if found.change(_rounded(state, spec, generator)) < max(tolerance, lifted.tolerance) / 20:
                return found
        spread /= 2
    if found is None:
        raise SymmetryError(
            "the module returns NaN at every random draw of its weights; check that it runs with ordinary weights and inputs"
        )
    return found


def _rounded(state: StateDict, spec: SymmetrySpec, generator: torch.Generator) -> dict[str, Tensor]:
    """Every weight off by about one rounding, tied ones together."""
    made: dict[int, Tensor] = {}
    for tensor in state.values():
        if tensor.is_floating_point() and id(tensor) not in made:
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            made[id(tensor)] = tensor * (1 + 2**-52 * noise)
    return {name: made.get(id(tensor), tensor) for name, tensor in state.items()}


def redraw(
    lifted: Network, spec: SymmetrySpec, generator: torch.Generator, spread: float = 1.0, louder: Mapping[str, float] | None = None
) -> dict[str, Tensor]:
    """Random values for every float tensor of a spec: at initialisation norms are ones and biases zero, and a wrong spec passes.

    Matrices are normal by the root of their fan-in, lookup tables normal, gains 1 +- .5, biases +- .5, buffers that have
    groups (running statistics) positive, other buffers as they are. Tied tensors stay tied.
    """
    louder, state, drawn = louder or {}, dict[str, Tensor](), dict[str, Tensor]()
    for name in [*spec.tensors, *spec.aliases]:
        owner = lifted.ties.get(name, name)
        if name not in lifted.state:
            continue  # an alias that this module does not have
        if owner in drawn:
            state[name] = drawn[owner]
            continue
        old = lifted.state[name]
        is_constant = name not in lifted.parameters and not any(True for axis in spec.axes(name) for _ in leaves(axis))
        if not old.is_floating_point() or is_constant:
            state[name] = old
        else:
            state[name] = _random_values(lifted, name, old, generator, spread) * louder.get(name, 1.0)
        drawn[owner] = state[name]
    return state


def _random_values(lifted: Network, name: str, old: Tensor, generator: torch.Generator, spread: float) -> Tensor:
    squeezed = [length for length in old.shape if length > 1]
    if len(squeezed) > 1 and name in lifted.parameters:
        fan_in = 1 if name in lifted.embeddings else max(math.prod(squeezed[1:]), 1)
        return torch.randn(old.shape, generator=generator, dtype=torch.float64) * spread / math.sqrt(fan_in)
    around = 0.0 if "bias" in name.rpartition(".")[2] and name in lifted.parameters else 1.0
    return around - 0.5 + torch.rand(old.shape, generator=generator, dtype=torch.float64)


def redraw_inputs(inputs: Sequence[Any], generator: torch.Generator, *, scale: float = 1.0, as_given: bool = False) -> tuple[Any, ...]:
    """Random inputs of the same kind: floats normal, integers in the range of those given, masks kept.

    Args:
        inputs: leaves of the example inputs.
        generator: source of chance.
        scale: standard deviation of floats.
        as_given: floats are the given ones in another order, for a module that takes only some values.
    """
    return tuple(_redrawn(leaf, generator, scale, as_given) for leaf in inputs)


def _redrawn(leaf: Any, generator: torch.Generator, scale: float, as_given: bool) -> Any:
    if not isinstance(leaf, Tensor) or leaf.numel() == 0 or leaf.dtype == torch.bool or leaf.is_complex() or _is_mask(leaf):
        return leaf
    if not leaf.is_floating_point():
        return torch.randint(int(leaf.min()), int(leaf.max()) + 1, leaf.shape, generator=generator, dtype=leaf.dtype)
    if as_given:
        return leaf.flatten()[torch.randperm(leaf.numel(), generator=generator)].reshape(leaf.shape)
    return torch.randn(leaf.shape, generator=generator, dtype=torch.float64) * scale


def _is_mask(leaf: Tensor) -> bool:
    """Whether a tensor says what to look at: zeros and ones, both of them, or infinities to be added."""
    zeros, ones = leaf == 0, leaf == 1
    return bool((zeros | ones).all() and zeros.any() and ones.any()) or bool((~leaf.isfinite()).any())
