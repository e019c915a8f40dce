"""Look-ups by integers: the axis that is indexed is fixed, the others carry over."""

from typing import Any

from weightspace.tracing.dims import Dim, cut
from weightspace.tracing.reader import Reader, rule
from weightspace.tracing.rules_elementwise import aligned
from weightspace.tracing.values import Value


def _indexed(t: Reader, x: Value, axis: int) -> None:
    if x.held:  # that a table has places is no news
        t.fix(x.dims[axis])
        t.plain(x.dims[axis])
    else:
        t.ordered(x.dims[axis])


@rule("embedding")
def embedding(t: Reader, weight: Value, indices: Value, *_: Any) -> list[Dim]:
    """Rows of a table."""
    _indexed(t, weight, 0)
    t.produced(weight.dims[1])
    return [*indices.dims, *weight.dims[1:]]


@rule("index_select")
def index_select(t: Reader, x: Value, axis: int, indices: Value) -> list[Dim]:
    """Entries of one dimension."""
    axis %= len(x)
    _indexed(t, x, axis)
    return [*x.dims[:axis], *indices.dims, *x.dims[axis + 1 :]]


@rule("gather", "take_along_dim")
def gather(t: Reader, x: Value, axis: int, indices: Value, *_: Any) -> list[Dim]:
    """For each place an entry of one dimension."""
    axis %= len(x)
    _indexed(t, x, axis)
    out = []
    for k, (held, by) in enumerate(zip(x.dims, indices.dims, strict=True)):
        if k != axis:
            kept = held if x.shape[k] == indices.shape[k] else cut(held, 0, indices.shape[k])
            out.append(t.times(kept, t.without_degree(by)))
        else:
            out.append(by)
    return out


@rule("index", "_unsafe_index")
def index(t: Reader, x: Value, indices: list[Value | None]) -> list[Dim]:
    """Entries at places that tensors name; some dimensions are kept whole.

    Raises:
        ValueError: a mask chooses, so that the shape depends on the data.
    """
    given = [k for k, found in enumerate(indices) if found is not None]
    tensors = [found for found in indices if found is not None]
    if len(t.shape) != len(x) - len(given) + max(map(len, tensors)):
        raise ValueError("a mask")
    for k in given:
        _indexed(t, x, k)
    places = []
    for dims in aligned(tensors):
        held = [terms for terms in dims if terms != ((),)]
        places.append(t.times(*held) if held else dims[0])
    kept = [(k, terms) for k, terms in enumerate(x.dims) if k not in given]
    if given[-1] - given[0] + 1 > len(given):  # apart: the places come first
        return [*places, *(terms for _, terms in kept)]
    return [*(terms for k, terms in kept if k < given[0]), *places, *(terms for k, terms in kept if k > given[0])]
