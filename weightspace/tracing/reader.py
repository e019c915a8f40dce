"""The reader of a graph: which dimensions its values have, and what each operation demands of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from weightspace.registry import Registry
from weightspace.tracing.degrees import Equations
from weightspace.tracing.dims import ONE, Atom, Dim, cut, dim, fix, leaves, resolve, size, unify
from weightspace.tracing.values import Value, mapped, paired

Result: TypeAlias = Any  # a list of dimensions, a Value, or a tuple of such for an operation with several outputs
Rule: TypeAlias = Callable[..., Result]
AnyRule = TypeVar("AnyRule", bound=Rule)

RULES: Registry[Rule] = Registry("rule of an operation", "weightspace.tracing")
LAZY: set[str] = set()
RAW: set[str] = set()


def rule(*operations: str, lazy: bool = False, raw: bool = False) -> Callable[[AnyRule], AnyRule]:
    """Register how an ATen operation joins, splits and fixes dimensions.

    The function is called with the reader and the operation's arguments in the order of its schema, defaults filled in, tensors
    as `Value`, and returns the dimensions of the output.

    Args:
        operations: names without overload, such as `linear`.
        lazy: whether it only rearranges, so that it may wait until something needs its output: a `select` from it may then be
            followed back to where the axis was made, and cuts there.
        raw: whether it takes nodes, so that its inputs are not read before it asks.
    """

    def register(function: AnyRule) -> AnyRule:
        for operation in operations:
            RULES.add(operation, function)
            if lazy:
                LAZY.add(operation)
            if raw:
                RAW.add(operation)
        return function

    return register


class Reader:
    """Reads a graph node by node; run twice: first the dimensions settle, then degrees of scales are followed through them.

    Attributes:
        node: the node being read.
        values: what each node yields.
        witnesses: dimensions of every value, those inside a fused operation too.
        notes: operations that no rule knows or that fix a hidden axis, and where.
        equations: what is demanded of degrees; None in the first run.
        statistics: tensors that hold running statistics, with the power of a scale that they follow.
        gains: degrees of axes of parameters that multiply a value elementwise.
        roles: words for what an atom counts, for its name.
        folds: for each parameter that multiplies elementwise, the parameters that next consume the product.
    """

    def __init__(
        self, nodes: Sequence[Node], inputs: Mapping[Node, Value], fresh: dict[tuple[Node, int], Atom], equations: Equations | None = None
    ) -> None:
        self.nodes, self.inputs, self._fresh = nodes, inputs, fresh
        self.values: dict[Node, Any] = dict(inputs)
        self.witnesses: list[Sequence[Dim]] = [value.dims for value in inputs.values()]
        self.notes: list[str] = []
        self.equations = equations
        self.statistics: dict[str, int] = {}
        self.gains: set[int] = set()
        self.roles: dict[Atom, str] = {}
        self.folds: dict[str, list[str]] = {}
        self.node = nodes[0]
        self._count = 0

    def read(self) -> None:
        """Read every node; what only rearranges waits until it is needed."""
        for node in self.nodes:
            if node.op == "call_function" and not _is_lazy(node):
                self.value(node)
            elif node.op == "output":
                for value in _values(map_arg(node.args, self.value)):
                    self.fix(*value.dims)

    def value(self, node: Node) -> Any:
        """What a node yields: a `Value`, a tuple of them, or None for what is no tensor."""
        if node not in self.values and node.op == "call_function":
            before, count = self.node, self._count
            self.node, self._count = node, 0
            self.values[node] = self._evaluate(node)
            self.node, self._count = before, count
        return self.values.get(node)

    def _evaluate(self, node: Node) -> Any:
        shapes = _shapes(node.meta.get("val"))
        function = RULES.get(operation_name(node))
        if function is None:
            return self._unknown(node, shapes, f"operation '{operation_name(node)}' is not known")
        try:
            arguments = _arguments(node)
            result = function(self, *(arguments if operation_name(node) in RAW else map_arg(arguments, self.value)))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            return self._unknown(node, shapes, f"operation '{operation_name(node)}' cannot be followed ({type(error).__name__}: {error})")
        several = isinstance(shapes, list)
        found = [_wrap(one) for one in (result if several else [result])]
        for value, shape in zip(found, shapes if several else [shapes], strict=False):
            if value is not None and shape is not None and value.shape != shape:
                return self._unknown(node, shapes, f"operation '{operation_name(node)}' cannot be followed to shape {list(shape)}")
            for part in (value.slices or [value]) if value is not None else ():
                self.witness(*part.dims)
        return found if several else found[0]

    def _unknown(self, node: Node, shapes: Any, reason: str) -> Any:
        """Fix every axis that an operation touches, and say so."""
        touched = [value for source in node.all_input_nodes for value in _values(self.value(source))]
        for value in touched:
            self.fix(*value.dims)
        if touched:
            self.notes.append(f"{reason}; the axes it touches are fixed ({place(node)})")
        made = [_fixed(shape) for shape in shapes] if isinstance(shapes, list) else _fixed(shapes)
        return made

    # What rules say.

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what the node being read yields (the first, where it yields several)."""
        shapes = _shapes(self.node.meta.get("val"))
        found: tuple[int, ...] = shapes[0] if isinstance(shapes, list) else shapes
        return found

    def witness(self, *dims: Dim) -> None:
        """Record dimensions that stand together in a value."""
        self.witnesses.append(dims)

    def fresh(self, count: int, *, fixed: bool = False, uniform: bool = False) -> Dim:
        """A dimension of an atom that this node makes, the same one whenever the node is read."""
        if count < 2:
            return ONE if count else ()
        self._count += 1
        key = (self.node, self._count)
        if key not in self._fresh:
            self._fresh[key] = Atom(count, fixed=fixed, uniform=uniform)
        return dim(self._fresh[key])

    def fixed(self, count: int) -> Dim:
        """A new dimension whose order has a meaning."""
        return self.fresh(count, fixed=True)

    def uniform(self, count: int) -> Dim:
        """A new dimension along which the value is constant: it demands nothing."""
        return self.fresh(count, uniform=True)

    def fix(self, *dims: Dim) -> None:
        """The order of these has a meaning."""
        for terms in dims:
            fix(terms)

    def ordered(self, *dims: Dim) -> None:
        """The operation tells the entries along these apart by their place: they are fixed, and it is said where that is news."""
        for terms in dims:
            if any(not leaf.atom.fixed and not leaf.atom.uniform for leaf in leaves(resolve(terms))):
                self.notes.append(f"'{operation_name(self.node)}' at {place(self.node)} fixes an axis of size {size(terms)}")
        self.fix(*dims)
        self.plain(*dims)

    def same(self, *dims: Dim) -> Dim:
        """Dimensions that are indexed alike and scale alike (terms of a sum of tensors)."""
        return self._joined(dims, lambda equations, one, other: equations.equal(one, other))

    def times(self, *dims: Dim, gain: str = "") -> Dim:
        """Dimensions that are indexed alike, of tensors that are multiplied elementwise; `gain` names one that is a parameter."""
        joined = self._joined(dims, lambda equations, one, other: equations.add(one, other))
        if len(dims) > 1:
            self.mark(joined, why=gain)
        return joined

    def over(self, one: Dim, other: Dim) -> Dim:
        """Dimensions that are indexed alike, of a tensor divided elementwise by another."""
        joined = self._joined((one, other), lambda equations, a, b: equations.add(a, b, -1))
        self.mark(joined)
        return joined

    def contract(self, one: Dim, other: Dim) -> None:
        """Dimensions over which a product is summed; the second is the consumer's side."""
        self._joined((one, other), lambda equations, a, b: equations.cancel(a, b))

    def plain(self, *dims: Dim) -> None:
        """No scale, sign or matrix may reach these: they meet a function that does not commute with it."""
        if self.equations is not None:
            for terms in dims:
                for leaf in leaves(resolve(terms)):
                    self.equations.zero(leaf.degree)
        self.mark(*dims)

    def mark(self, *dims: Dim, why: str = "") -> None:
        """The coordinates of these are told apart: no matrix may mix them."""
        if self.equations is not None:
            for terms in dims:
                for leaf in leaves(resolve(terms)):
                    self.equations.rigid.setdefault(leaf.atom, set()).add(why)

    def produced(self, terms: Dim) -> None:
        """An axis of a parameter makes values, even if it consumes them elsewhere (a tied table)."""
        if self.equations is not None:
            self.equations.producers.update(key for leaf in leaves(resolve(terms)) for key in leaf.degree)

    def turned(self, terms: Dim) -> None:
        """Two halves of a dimension are the coordinates of planes, each turned by an angle of its own."""
        if self.equations is not None:
            self.equations.planes.update(leaf.atom for leaf in leaves(resolve(terms)))

    def gain(self, value: Value) -> None:
        """A parameter multiplies a value elementwise."""
        if self.equations is not None and value.held:
            self.folds.setdefault(value.held, []).extend(self._consumers(self.node))
            self.gains.update(key for terms in value.dims for leaf in leaves(resolve(terms)) for key in leaf.degree)

    def _consumers(self, node: Node) -> Iterator[str]:
        """The parameters that what a node yields meets next."""
        for user in node.users:
            if _is_lazy(user) or operation_name(user) in ("slice", "select"):
                yield from self._consumers(user)
            else:
                found = [self.values.get(source) for source in user.all_input_nodes if source is not node]
                yield from (value.held for value in found if isinstance(value, Value) and value.held and len(value) > 1)

    def role(self, terms: Dim, *words: str) -> None:
        """Say what the atoms of a dimension count, from the outermost."""
        found = [leaf.atom for leaf in leaves(resolve(terms))]
        if len(found) == len(words):
            for atom, word in zip(found, words, strict=True):
                self.roles.setdefault(atom, word)

    def rounded(self, terms: Dim) -> Dim:
        """A dimension after a division by the root of its mean square: scales stop, signs and orthogonal matrices pass."""
        if self.equations is None:
            return terms
        equations = self.equations
        equations.round.update(leaf.atom for leaf in leaves(resolve(terms)))
        return mapped(resolve(terms), equations.odd)

    def changed(self, terms: Dim, change: Callable[[Equations, Mapping[int, int]], Mapping[int, int]]) -> Dim:
        """A dimension after an elementwise function, which changes its degrees and tells its coordinates apart."""
        self.mark(terms)
        if self.equations is None:
            return terms
        equations = self.equations
        return mapped(resolve(terms), lambda degree: change(equations, degree))

    def without_degree(self, terms: Dim) -> Dim:
        """A dimension of a value on which scales do not act."""
        return mapped(resolve(terms), lambda _: {}) if self.equations is not None else terms

    def pick(self, value: Value, axis: int, index: int) -> list[Dim]:
        """The dimensions of the slice of a value at one index."""
        axis %= len(value)
        if value.slices and axis == 0:
            return value.slices[index].dims
        index %= size(value.dims[axis])
        cut(value.dims[axis], index, index + 1)
        return [terms for k, terms in enumerate(value.dims) if k != axis]

    def _joined(self, dims: Sequence[Dim], join: Callable[[Equations, Mapping[int, int], Mapping[int, int]], Mapping[int, int]]) -> Dim:
        for other in dims[1:]:
            unify(dims[0], other)
        if self.equations is None:
            return dims[0]
        equations, result = self.equations, resolve(dims[0])
        for other in dims[1:]:
            both = paired(result, resolve(other), lambda one, two: join(equations, one, two))
            if both is None:  # laid out differently, so mostly fixed: nothing is claimed
                self.plain(result, other)
                both = self.without_degree(result)
            result = both
        return result


def operation_name(node: Node) -> str:
    """The name of a node's operation, without namespace and overload."""
    schema = getattr(node.target, "_schema", None)
    return schema.name.split("::")[-1].rstrip("_") if schema is not None else getattr(node.target, "__name__", str(node.target))


def place(node: Node) -> str:
    """The path of the module that a node comes from."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path.removeprefix("module").removeprefix(".") for path, _ in reversed(stack.values())]
    return f"{next(filter(None, paths), 'the model')}, node {node.name}"


def _is_lazy(node: Node) -> bool:
    RULES.get("linear")  # the rules are found on first use
    return operation_name(node) in LAZY


def _arguments(node: Node) -> list[Any]:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return list(node.args)
    given = list(node.args)
    return given + [
        node.kwargs.get(argument.name, argument.default_value if argument.has_default_value() else None)
        for argument in schema.arguments[len(given) :]
    ]


def _shapes(found: Any) -> Any:
    if isinstance(found, torch.Tensor):
        return tuple(found.shape)
    return [_shapes(one) for one in found] if isinstance(found, (tuple, list)) else None


def _fixed(shape: tuple[int, ...] | None) -> Value | None:
    if shape is None:
        return None
    return Value([() if n == 0 else ONE if n == 1 else dim(Atom(n, fixed=True)) for n in shape])


def _values(found: Any) -> Iterator[Value]:
    if isinstance(found, Value):
        yield found
    elif isinstance(found, (tuple, list)):
        for one in found:
            yield from _values(one)


def _wrap(result: Any) -> Value | None:
    return result if isinstance(result, Value) or result is None else Value(list(result))
