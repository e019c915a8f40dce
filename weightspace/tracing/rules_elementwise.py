"""Elementwise operations: dimensions align from the right, and those of all operands are one."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from weightspace.tracing.degrees import Equations
from weightspace.tracing.dims import ONE, Dim, size
from weightspace.tracing.reader import Reader, rule
from weightspace.tracing.values import Value, held_dim

Change: TypeAlias = Callable[[Equations, Mapping[int, int]], Mapping[int, int]]


def aligned(operands: Sequence[Value]) -> list[list[Dim]]:
    """For each dimension of the broadcast shape, that of every operand (a single index where it has none)."""
    rank = max(map(len, operands))
    return [[value.dims[k - rank] if len(value) >= rank - k else ONE for value in operands] for k in range(rank)]


def summed(t: Reader, *operands: Any) -> list[Dim]:
    """The dimensions of a sum: a term that does not vary along a dimension keeps scales away from it, unless it is zero."""
    tensors = [x for x in operands if isinstance(x, Value)]
    constant = any(not isinstance(x, Value) and x not in (0, None) for x in operands)
    terms = sum(not value.zero for value in tensors)
    out = []
    for dims in aligned(tensors):
        held = [terms for terms in dims if held_dim(terms)]
        varying = sum(held_dim(terms) and not value.zero for terms, value in zip(dims, tensors, strict=True))
        joined = t.same(*held) if held else max(dims, key=size)
        if constant or varying < terms:
            t.plain(joined)
            joined = t.without_degree(joined)
        out.append(joined)
    return out


def changed(t: Reader, value: Value, change: Change) -> list[Dim]:
    """The dimensions of a value after a function that changes degrees."""
    return [t.changed(terms, change) for terms in value.dims]


def opaque(t: Reader, *operands: Any) -> list[Dim]:
    """The dimensions after a function with which no scale or sign commutes."""
    out = []
    for dims in aligned([x for x in operands if isinstance(x, Value)]):
        held = [terms for terms in dims if held_dim(terms)]
        t.plain(*held)
        out.append(t.without_degree(t.same(*held)) if held else max(dims, key=size))
    return out


@rule("alias", "clone", "contiguous", "detach", "dropout", "lift_fresh_copy", "neg", "positive", "to", "type_as", "_to_copy", lazy=True)
def copied(t: Reader, x: Value, *_: Any) -> Value:
    """What keeps every entry in its place, up to the sign of all."""
    return Value(x.dims, zero=x.zero, held=x.held) if not x.slices else x


@rule("add", "sub", "rsub")
def add(t: Reader, x: Any, y: Any, *_: Any) -> list[Dim]:
    """Sum or difference."""
    return summed(t, x, y)


@rule("mul")
def mul(t: Reader, x: Any, y: Any) -> list[Dim]:
    """Product."""
    operands = [value for value in (x, y) if isinstance(value, Value)]
    for value in operands:
        t.gain(value)
    gain = next((value.held for value in operands if value.held), None) if len(operands) == 2 else None
    out = []
    for dims in aligned(operands):
        held = [terms for terms in dims if held_dim(terms)]
        out.append(t.times(*held, gain=gain or "") if held else max(dims, key=size))
    return out


@rule("div")
def div(t: Reader, x: Any, y: Any, rounding_mode: str | None = None) -> list[Dim]:
    """Quotient."""
    if rounding_mode is not None:
        return opaque(t, x, y)
    if not isinstance(y, Value):
        return x.dims if isinstance(x, Value) else []
    if not isinstance(x, Value):
        return power(t, y, -1)
    out = []
    for one, other in aligned([x, y]):
        if held_dim(one) and held_dim(other):
            out.append(t.over(one, other))
        elif held_dim(other):
            out.append(t.changed(other, lambda equations, degree: equations.power(degree, -1)))
        else:
            out.append(one if held_dim(one) else max(one, other, key=size))
    return out


@rule("pow")
def power(t: Reader, x: Any, exponent: Any) -> list[Dim]:
    """Power."""
    if isinstance(x, Value) and not isinstance(exponent, Value):
        return changed(t, x, lambda equations, degree: equations.power(degree, exponent))
    return opaque(t, x, exponent)


@rule("reciprocal")
def reciprocal(t: Reader, x: Value) -> list[Dim]:
    """One over a value."""
    return power(t, x, -1)


@rule("sqrt")
def sqrt(t: Reader, x: Value) -> list[Dim]:
    """Square root."""
    return power(t, x, 0.5)


@rule("rsqrt")
def rsqrt(t: Reader, x: Value) -> list[Dim]:
    """One over a square root."""
    return power(t, x, -0.5)


@rule("relu", "leaky_relu", "rrelu")
def relu(t: Reader, x: Value, *_: Any) -> list[Dim]:
    """Positively homogeneous functions."""
    return changed(t, x, Equations.homogeneous)


@rule("abs")
def absolute(t: Reader, x: Value) -> list[Dim]:
    """Absolute value."""
    return changed(t, x, Equations.magnitude)


@rule("maximum", "minimum", "fmax", "fmin")
def extreme(t: Reader, x: Value, y: Value) -> list[Dim]:
    """The greater or smaller of two values."""
    return [t.changed(terms, Equations.homogeneous) for terms in summed(t, x, y)]


@rule("asin", "asinh", "atan", "atanh", "erf", "erfinv", "round", "sign", "sin", "sinh", "softshrink", "tan", "tanh", "trunc")
def odd(t: Reader, x: Value, *_: Any) -> list[Dim]:
    """Odd functions."""
    return changed(t, x, Equations.odd)


@rule("cos", "cosh", "sinc")
def even(t: Reader, x: Value) -> list[Dim]:
    """Even functions."""
    return changed(t, x, Equations.even)


@rule("clamp", "hardtanh")
def clamp(t: Reader, x: Value, low: Any = None, high: Any = None) -> list[Dim]:
    """Values brought into a range: a range around zero is odd, a half line from zero is homogeneous."""
    if isinstance(low, Value) or isinstance(high, Value):
        return opaque(t, x, low, high)
    if low is not None and high is not None and low == -high:
        return changed(t, x, Equations.odd)
    return relu(t, x) if (low, high) in ((0, None), (None, 0)) else opaque(t, x)


@rule("eq", "ge", "gt", "le", "lt", "ne")
def compare(t: Reader, x: Value, y: Any) -> list[Dim]:
    """Comparison; with zero it does not see a positive scale."""
    if isinstance(y, Value) or y != 0:
        return opaque(t, x, y)
    return [t.without_degree(terms) for terms in changed(t, x, Equations.homogeneous)]


@rule("where")
def where(t: Reader, condition: Value, x: Any, y: Any) -> list[Dim]:
    """A choice between two values, entry by entry."""
    chosen = Value(summed(t, x, y)) if any(isinstance(one, Value) for one in (x, y)) else Value([])
    return _masked(t, chosen, condition)


@rule("masked_fill")
def masked_fill(t: Reader, x: Value, mask: Value, value: Any) -> list[Dim]:
    """A constant where a mask says so."""
    filled = Value(summed(t, x, value)) if not isinstance(value, Value) or value.zero else Value(opaque(t, x, value))
    return _masked(t, filled, mask)


def _masked(t: Reader, x: Value, mask: Value) -> list[Dim]:
    """The dimensions of values chosen by a mask, which is blind to scales."""
    out = []
    for terms, choice in aligned([x, mask]):
        if held_dim(choice):
            t.plain(choice)
            t.mark(terms)
            out.append(_follow(t, terms, choice))
        else:
            out.append(terms if held_dim(terms) else max(terms, choice, key=size))
    return out


def _follow(t: Reader, terms: Dim, choice: Dim) -> Dim:
    """A dimension of values which a mask has too; the values alone carry degrees."""
    if not held_dim(terms):
        return t.without_degree(choice)
    return t.times(terms, t.without_degree(choice))


@rule(
    "acos", "acosh", "atan2", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "ceil", "celu", "digamma", "elu", "erfc", "exp", "exp2", "expm1",
    "floor", "floor_divide", "fmod", "gelu", "hardsigmoid", "hardswish", "isinf", "isnan", "lgamma", "log", "log10", "log1p", "log2", "log_sigmoid",
    "logical_and", "logical_not", "logical_or", "logical_xor", "mish", "remainder", "selu", "sigmoid", "silu", "softplus", "threshold", "__and__", "__or__",
    "hardshrink", "logaddexp", "isfinite", "nan_to_num",
)  # fmt: skip
def pointwise(t: Reader, *operands: Any) -> list[Dim]:
    """Elementwise functions with which only the order of entries commutes."""
    return opaque(t, *operands)


@rule("_assert_tensor_metadata", "_assert_scalar", "_assert_async", "sym_size", "sym_constrain_range_for_size")
def nothing(t: Reader, *_: Any) -> None:
    """What yields no tensor and demands nothing."""


@rule(
    "empty",
    "full",
    "ones",
    "rand",
    "randn",
    "scalar_tensor",
    "zeros",
    "empty_like",
    "full_like",
    "ones_like",
    "zeros_like",
    "new_zeros",
    "new_ones",
    "new_full",
)
def filled(t: Reader, first: Any = None, second: Any = None, *_: Any) -> Value:
    """Constants made in the graph: one value everywhere, so they demand nothing."""
    name = t.node.target._schema.name.split("::")[-1]  # type: ignore[union-attr]
    value = {"full": second, "full_like": second, "scalar_tensor": first}.get(name, 0 if "zeros" in name else 1)
    return Value([t.uniform(n) for n in t.shape], zero=value == 0)


@rule("arange", "eye", "linspace", "one_hot", "randperm", "triu", "tril")
def ordered(t: Reader, x: Any = None, *_: Any) -> list[Dim]:
    """Constants whose entries differ, and what depends on the order of the last dimensions."""
    if isinstance(x, Value) and len(x):
        t.ordered(*x.dims)
    return [t.fixed(n) for n in t.shape]
