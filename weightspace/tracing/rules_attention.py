"""Scaled dot-product attention: queries meet keys, weights meet values, head by head."""

from typing import Any

from weightspace.tracing.dims import Dim, cut, product, size
from weightspace.tracing.reader import Reader, rule
from weightspace.tracing.rules_contraction import leading, matmul
from weightspace.tracing.rules_elementwise import opaque
from weightspace.tracing.values import Value, held_dim


@rule("scaled_dot_product_attention")
def attention(t: Reader, query: Value, key: Value, value: Value, mask: Value | None, *options: Any) -> list[Dim]:
    """Softmax attention, heads of queries grouped over those of keys where `enable_gqa` says so."""
    if len(query) > 2 and size(query.dims[-3]) != size(key.dims[-3]) and size(key.dims[-3]) > 1:
        key, value = (_repeated(t, one, size(query.dims[-3])) for one in (key, value))
    t.contract(query.dims[-1], key.dims[-1])
    t.role(query.dims[-1], "key")
    t.role(value.dims[-1], "value")
    for heads in query.dims[-3:-2]:
        t.role(heads, "head")
        t.role(heads, "kv", "rep")
    scores = Value([*leading(t, query.dims[:-2], key.dims[:-2]), query.dims[-2], key.dims[-2]])
    if mask is not None:
        scores = Value(opaque(t, scores, mask))
    t.plain(*scores.dims)
    t.witness(*scores.dims, query.dims[-1])
    t.witness(*scores.dims[:-1])
    weights = Value([t.without_degree(terms) if held_dim(terms) else terms for terms in scores.dims])
    return matmul(t, weights, value)


def _repeated(t: Reader, x: Value, heads: int) -> Value:
    """Keys or values, each head repeated for the queries that share it."""
    times = heads // size(x.dims[-3])
    return Value([*x.dims[:-3], product([x.dims[-3], t.uniform(times)]), *x.dims[-2:]])


@rule("rotary")
def rotary(t: Reader, x: Value) -> list[Dim]:
    """Planes of coordinates, each turned by an angle of its own: their order is that of the frequencies."""
    width = x.shape[-1] // 2
    first, second = cut(x.dims[-1], 0, width), cut(x.dims[-1], width, 2 * width)
    for terms in (first, second):
        t.fix(terms)
    planes = t.same(first, second)
    t.turned(planes)
    t.role(planes, "plane")
    return [*x.dims[:-1], (*planes, *planes)]


@rule("_softmax", "softmax", "_log_softmax", "log_softmax", "_safe_softmax")
def softmax(t: Reader, x: Value, axis: int, *_: Any) -> list[Dim]:
    """Softmax along one dimension."""
    t.witness(*(terms for k, terms in enumerate(x.dims) if k != axis % len(x)))
    return opaque(t, x)
