"""Operations that only rearrange: reshapes, permutations, cuts and joins."""

from collections.abc import Sequence
from typing import Any

from torch.fx import Node

from weightspace.tracing.dims import ONE, Dim, cut, groups, product, reshape, resolve, size, split_tail
from weightspace.tracing.reader import Reader, operation_name, rule
from weightspace.tracing.values import Value


def _copy(x: Value, dims: list[Dim]) -> Value:
    return Value(dims, zero=x.zero, held=x.held)


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_copy", lazy=True)
def view(t: Reader, x: Value, *_: Any) -> Value:
    """The same entries, row-major, in another shape."""
    if 0 in t.shape:
        return _copy(x, [t.fixed(n) for n in t.shape])
    return _copy(x, reshape(x.dims, t.shape))


@rule("permute", lazy=True)
def permute(t: Reader, x: Value, order: Sequence[int]) -> Value:
    """Dimensions in another order."""
    return _copy(x, [x.dims[k] for k in order])


@rule("transpose", "swapaxes", lazy=True)
def transpose(t: Reader, x: Value, one: int, other: int) -> Value:
    """Two dimensions exchanged."""
    dims = list(x.dims)
    dims[one], dims[other] = dims[other], dims[one]
    return _copy(x, dims)


@rule("t", "numpy_T", "matrix_H", "mT", lazy=True)
def transposed(t: Reader, x: Value) -> Value:
    """The last two dimensions exchanged."""
    return _copy(x, [*x.dims[:-2], *x.dims[-2:][::-1]])


@rule("expand", "broadcast_to", lazy=True)
def expand(t: Reader, x: Value, *_: Any) -> Value:
    """Single indices repeated: the value is constant there."""
    dims = [ONE] * (len(t.shape) - len(x)) + x.dims
    return _copy(x, [terms if size(terms) == n else t.uniform(n) for terms, n in zip(dims, t.shape, strict=True)])


@rule("repeat")
def repeat(t: Reader, x: Value, repeats: Sequence[int]) -> list[Dim]:
    """Copies of a value side by side."""
    dims = [ONE] * (len(repeats) - len(x)) + x.dims
    return [product([t.uniform(n), terms]) if n > 1 else terms for terms, n in zip(dims, repeats, strict=True)]


@rule("cat")
def cat(t: Reader, values: list[Value], axis: int = 0) -> Value:
    """Values laid one after another along a dimension."""
    values = [value for value in values if 0 not in value.shape]
    axis %= len(t.shape)
    dims = [t.same(*(value.dims[k] for value in values)) if k != axis else ONE for k in range(len(t.shape))]
    dims[axis] = tuple(term for value in values for term in resolve(value.dims[axis]))
    if values and all(value.zero for value in values):
        return Value(dims, zero=True)
    return Value(dims)


@rule("stack")
def stack(t: Reader, values: list[Value], axis: int = 0) -> Value:
    """Values laid one after another along a new dimension."""
    axis %= len(t.shape)
    if axis == 0:
        return Stack(t, values)
    dims = [t.same(*(value.dims[k] for value in values)) for k in range(len(values[0]))]
    return Value([*dims[:axis], t.fixed(len(values)), *dims[axis:]])


class Stack(Value):
    """Values stacked along a first dimension; they become alike only if somebody takes them as one."""

    def __init__(self, t: Reader, slices: list[Value]) -> None:
        super().__init__([])
        self._reader, self._first, self.slices = t, t.fixed(len(slices)), slices

    @property
    def dims(self) -> list[Dim]:
        """The dimensions of the whole, for which all slices have to be indexed alike."""
        columns = zip(*(value.dims for value in self.slices), strict=True)
        return [self._first, *(self._reader.same(*column) for column in columns)]

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of its dimensions."""
        return (len(self.slices), *self.slices[0].shape)

    def __len__(self) -> int:
        return 1 + len(self.slices[0])


@rule("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split")
def split(t: Reader, x: Value, _: Any, axis: int = 0, *__: Any) -> tuple[Value, ...]:
    """A dimension cut into ranges."""
    axis %= len(x)
    out, position = [], 0
    for made in t.node.meta["val"]:
        dims = list(x.dims)
        dims[axis] = cut(x.dims[axis], position, position + made.shape[axis])
        position += made.shape[axis]
        out.append(_copy(x, dims))
    return tuple(out)


@rule("slice")
def slice_(t: Reader, x: Value, axis: int = 0, start: int | None = None, stop: int | None = None, step: int = 1) -> Value:
    """A range of a dimension, or every so-manieth of it."""
    axis %= len(x)
    dims, total = list(x.dims), x.shape[axis]
    first = 0 if start is None else max(start + total, 0) if start < 0 else min(start, total)
    last = total if stop is None else max(stop + total, 0) if stop < 0 else min(stop, total)
    if step == 1:
        dims[axis] = cut(dims[axis], first, max(first, last)) if (first, last) != (0, total) else dims[axis]
    elif total % step == 0 and last == total and first < step:
        front, tail = split_tail(dims[axis], step)
        cut(tail, first, first + 1)
        dims[axis] = front
    else:
        t.ordered(dims[axis])
        dims[axis] = t.fixed(t.shape[axis])
    return _copy(x, dims)


@rule("narrow")
def narrow(t: Reader, x: Value, axis: int, start: int, length: int) -> Value:
    """A range of a dimension."""
    return slice_(t, x, axis, start, start + length)


@rule("select", raw=True)
def select(t: Reader, _: Any, axis: int, index: int) -> Value:
    """One index of a dimension, cut where that dimension was made."""
    return picked(t, t.node.args[0], axis, index)


@rule("unbind", raw=True)
def unbind(t: Reader, _: Any, axis: int = 0) -> tuple[Value, ...]:
    """Every index of a dimension by itself."""
    return tuple(picked(t, t.node.args[0], axis, k) for k in range(len(t.node.meta["val"])))


def picked(t: Reader, source: Any, axis: int, index: int) -> Value:
    """The slice of a node at one index, followed back through what only rearranges.

    A fused projection that is viewed as `(3, heads, size)` and then selected from would make queries, keys and values one
    group, since a product has one factor for all. Followed back to the view, the selection is a cut of the fused axis.
    """
    shape = source.meta["val"].shape
    axis, index = axis % len(shape), index % shape[axis]
    name = operation_name(source)
    args = source.args
    if source in t.values or source.op != "call_function" or name not in _BACK:
        return _picked_here(t, source, axis, index)
    found = _BACK[name](t, source, args, axis, index)
    return found if found is not None else _picked_here(t, source, axis, index)


def _picked_here(t: Reader, source: Node, axis: int, index: int) -> Value:
    x: Value = t.value(source)
    if x.slices and axis == 0:
        return x.slices[index]
    cut(x.dims[axis], index, index + 1)
    return _copy(x, [terms for k, terms in enumerate(x.dims) if k != axis])


def _back_through_copy(t: Reader, source: Node, args: Any, axis: int, index: int) -> Value | None:
    return picked(t, args[0], axis, index)


def _back_through_permute(t: Reader, source: Node, args: Any, axis: int, index: int) -> Value | None:
    rank = len(source.meta["val"].shape)
    order = list(range(rank))
    if operation_name(source) == "permute":
        order = [k % rank for k in args[1]]
    else:
        one, other = args[1:3] if operation_name(source) == "transpose" else (-2, -1)
        order[one], order[other] = order[other], order[one]
    inner = picked(t, args[0], order[axis], index)
    left = [k for k in range(rank) if k != order[axis]]  # where the inner dimensions stood
    return _copy(inner, [inner.dims[left.index(k)] for j, k in enumerate(order) if j != axis])


def _back_through_view(t: Reader, source: Node, args: Any, axis: int, index: int) -> Value | None:
    """Cut the axis of which a view made the selected dimension."""
    shape = list(source.meta["val"].shape)
    old = list(args[0].meta["val"].shape)
    start = 0
    run: list[int] = []
    sizes: list[int] = []
    for run, sizes in groups(old, shape):  # noqa: B007 (the group that the loop stops at is what is wanted)
        if axis < start + len(sizes):
            break
        start += len(sizes)
    if not run:
        return None
    if len(run) == len([n for n in sizes if n > 1]) == 1 and shape[axis] > 1:  # only the place of the dimension changes
        inner = picked(t, args[0], run[0], index)
        return _copy(inner, reshape(inner.dims, shape[:axis] + shape[axis + 1 :]))
    if shape[axis] == 1:
        return None
    x = t.value(args[0])
    tail = 1
    for n in sizes[axis - start :]:
        tail *= n
    merged = product([x.dims[k] for k in run])
    front, inner_dim = split_tail(merged, tail) if size(merged) > tail else (ONE, merged)
    step = tail // shape[axis]
    kept = product([front, cut(inner_dim, index * step, (index + 1) * step)])
    dims = [*x.dims[: run[0]], kept, *x.dims[run[-1] + 1 :]]
    return _copy(x, reshape(dims, shape[:axis] + shape[axis + 1 :]))


_BACK = {
    **dict.fromkeys(("clone", "contiguous", "alias", "detach", "_to_copy"), _back_through_copy),
    **dict.fromkeys(("permute", "transpose", "t"), _back_through_permute),
    **dict.fromkeys(("view", "reshape", "_unsafe_view", "squeeze", "unsqueeze"), _back_through_view),
}


@rule("flip", "roll")
def moved(t: Reader, x: Value, first: Any, axes: Sequence[int] = (), *_: Any) -> list[Dim]:
    """Places exchanged along some dimensions, whose order therefore has a meaning."""
    chosen = first if operation_name(t.node) == "flip" else axes or range(len(x))
    for axis in [chosen] if isinstance(chosen, int) else chosen:
        t.ordered(x.dims[axis])
    return x.dims


@rule("diag_embed")
def diagonal(t: Reader, x: Value, offset: int = 0, one: int = -2, other: int = -1) -> list[Dim]:
    """Entries laid on the diagonal of a matrix, whose two dimensions are therefore indexed alike.

    Raises:
        ValueError: another diagonal, or other dimensions than the last two.
    """
    rank = len(x) + 1
    if offset or sorted((one % rank, other % rank)) != [rank - 2, rank - 1]:
        raise ValueError("not the main diagonal of the last two dimensions")
    t.plain(x.dims[-1])
    last = t.without_degree(x.dims[-1])
    return [*x.dims[:-1], last, last]


@rule("constant_pad_nd", "pad")
def pad(t: Reader, x: Value, amounts: Sequence[int], mode: Any = "constant", value: Any = None) -> list[Dim]:
    """A constant laid before and after."""
    if isinstance(mode, str) and mode != "constant":
        raise ValueError(f"padding mode '{mode}'")
    constant = value if isinstance(mode, str) else mode
    dims = list(x.dims)
    for k in range(len(amounts) // 2):
        before, after = amounts[2 * k : 2 * k + 2]
        axis = len(dims) - 1 - k
        if not before and not after:
            continue
        if before < 0 or after < 0:
            dims[axis] = cut(dims[axis], max(-before, 0), x.shape[axis] - max(-after, 0))
        edges = [_padding(t, max(n, 0), zero=constant in (0, None)) for n in (before, after)]
        dims[axis] = (*edges[0], *dims[axis], *edges[1])
        if constant not in (0, None):  # entries that are no zero stand in the other dimensions too
            for other in range(len(dims)):
                if other != axis:
                    t.plain(dims[other])
    return dims


def _padding(t: Reader, count: int, *, zero: bool) -> Dim:
    """A dimension of constants; zeros may be scaled by anything."""
    terms = t.uniform(count)
    t.role(terms, "padding")
    return t.changed(terms, lambda equations, _: equations.unknown()) if zero and t.equations is not None else terms
