"""Contractions: the summed dimensions of both operands are one, all others carry over."""

from typing import Any

from weightspace.tracing.dims import ONE, Dim, size
from weightspace.tracing.reader import Reader, rule
from weightspace.tracing.rules_elementwise import summed
from weightspace.tracing.values import Value, held_dim


@rule("linear")
def linear(t: Reader, x: Value, weight: Value, bias: Value | None) -> list[Dim]:
    """Inputs times a transposed weight, plus a bias."""
    t.contract(x.dims[-1], weight.dims[-1])
    t.witness(*x.dims, *weight.dims[:-1])
    out = Value([*x.dims[:-1], *weight.dims[:-1]])
    return summed(t, out, bias) if bias is not None else out.dims


@rule("mm", "bmm", "matmul", "mv", "dot", "vdot")
def matmul(t: Reader, x: Value, y: Value, *_: Any) -> list[Dim]:
    """Matrix product, broadcast over leading dimensions."""
    inner = y.dims[-2] if len(y) > 1 else y.dims[0]
    if x.held and not y.held:
        t.contract(inner, x.dims[-1])
    else:
        t.contract(x.dims[-1], inner)
    rows = [x.dims[-2]] if len(x) > 1 else []
    columns = [y.dims[-1]] if len(y) > 1 else []
    lead = leading(t, x.dims[:-2], y.dims[:-2])
    t.witness(*lead, *rows, inner, *columns)
    return [*lead, *rows, *columns]


def leading(t: Reader, one: list[Dim], other: list[Dim]) -> list[Dim]:
    """Broadcast batch dimensions of a product."""
    rank = max(len(one), len(other))
    pairs = zip([ONE] * (rank - len(one)) + one, [ONE] * (rank - len(other)) + other, strict=True)
    out = []
    for pair in pairs:
        held = [terms for terms in pair if held_dim(terms)]
        out.append(t.times(*held) if held else max(pair, key=size))
    return out


@rule("addmm", "baddbmm", "addmv", "addbmm")
def addmm(t: Reader, bias: Value, x: Value, y: Value, *_: Any) -> list[Dim]:
    """A matrix product added to a value."""
    return summed(t, Value(matmul(t, x, y)), bias)


@rule("outer", "ger")
def outer(t: Reader, x: Value, y: Value) -> list[Dim]:
    """Outer product."""
    return [x.dims[0], y.dims[0]]


@rule("einsum")
def einsum(t: Reader, equation: str, operands: list[Value], *_: Any) -> list[Dim]:
    """Einstein's sum: what the output lacks is contracted.

    Raises:
        ValueError: an operand holds an index twice (a diagonal).
    """
    inputs, _arrow, output = equation.replace(" ", "").partition("->")
    subscripts = [_spelled(text, len(value)) for text, value in zip(inputs.split(","), operands, strict=True)]
    if any(len(set(names)) < len(names) for names in subscripts):
        raise ValueError("a diagonal")
    every = [name for names in subscripts for name in names]
    if "->" not in equation:
        wanted = [name for name in sorted(set(every)) if every.count(name) == 1 or len(name) > 1]
    else:
        widest = max((names for names in subscripts), key=lambda names: sum(len(name) > 1 for name in names))
        wanted = _spelled(output, len(output.replace("...", "")) + sum(len(name) > 1 for name in widest))
    found: dict[str, Dim] = {}
    for name in dict.fromkeys(every):
        dims = [value.dims[names.index(name)] for value, names in zip(operands, subscripts, strict=True) if name in names]
        held = [terms for terms in dims if held_dim(terms)] or dims[:1]
        found[name] = held[0]
        if name in wanted:
            found[name] = t.times(*held)
        elif len(held) == 2:
            consumer_first = operands[0].held and not operands[-1].held
            t.contract(*(held[::-1] if consumer_first else held))
        else:
            t.plain(t.times(*held))
    t.witness(*found.values())
    return [found[name] for name in wanted]


def _spelled(text: str, rank: int) -> list[str]:
    """The index of every dimension; those under an ellipsis are numbered from the right."""
    before, dots, after = text.partition("...")
    hidden = rank - len(before) - len(after) if dots else 0
    return [*before, *(f"...{n}" for n in range(hidden, 0, -1)), *after]
