"""Reductions: dimensions that a value loses, and ranks among its entries."""

from collections.abc import Sequence
from typing import Any

from weightspace.tracing.degrees import Equations
from weightspace.tracing.dims import ONE, Dim
from weightspace.tracing.reader import Reader, rule
from weightspace.tracing.rules_elementwise import Change, opaque
from weightspace.tracing.values import Value


def reduced(t: Reader, x: Value, axes: int | Sequence[int] | None, change: Change | None = None) -> list[Dim]:
    """The dimensions that are left; those that are summed meet no scale."""
    every = range(len(x))
    gone = set(every) if axes is None or axes == [] else {k % len(x) for k in ([axes] if isinstance(axes, int) else axes)}
    t.plain(*(x.dims[k] for k in gone))
    keeps = len(t.shape) == len(x) and len(x) > 0
    left = [ONE if k in gone else x.dims[k] for k in every if keeps or k not in gone]
    return [t.changed(terms, change) for terms in left] if change else left


@rule("mean", "sum", "nansum")
def total(t: Reader, x: Value, axes: Any = None, *_: Any) -> list[Dim]:
    """Sum or mean."""
    return reduced(t, x, axes if isinstance(axes, (int, list, tuple)) and not isinstance(axes, bool) else None)


@rule("amax", "amin")
def greatest(t: Reader, x: Value, axes: Any = None, *_: Any) -> list[Dim]:
    """Greatest or smallest entry."""
    return reduced(t, x, axes, Equations.homogeneous)


@rule("var")
def variance(t: Reader, x: Value, axes: Any = None, *_: Any) -> list[Dim]:
    """Variance."""
    return reduced(t, x, _axes_of(axes), lambda equations, degree: equations.power(degree, 2))


@rule("std")
def deviation(t: Reader, x: Value, axes: Any = None, *_: Any) -> list[Dim]:
    """Standard deviation."""
    return reduced(t, x, _axes_of(axes), Equations.magnitude)


@rule("var_mean", "std_mean")
def variance_and_mean(t: Reader, x: Value, axes: Any = None, *_: Any) -> tuple[list[Dim], list[Dim]]:
    """Variance and mean."""
    return variance(t, x, axes), total(t, x, _axes_of(axes))


@rule("linalg_vector_norm", "norm")
def norm(t: Reader, x: Value, _: Any = 2, axes: Any = None, *__: Any) -> list[Dim]:
    """A norm over some dimensions."""
    return reduced(t, x, _axes_of(axes), Equations.magnitude)


@rule("all", "any", "logsumexp", "prod")
def blind(t: Reader, x: Value, axes: Any = None, *_: Any) -> list[Dim]:
    """Reductions with which no scale commutes."""
    return reduced(t, Value(opaque(t, x)), _axes_of(axes))


def _axes_of(axes: Any) -> Any:
    return axes if isinstance(axes, (int, list, tuple)) and not isinstance(axes, bool) else None


def _ordered(t: Reader, x: Value, axis: int) -> list[Dim]:
    """The dimensions of a value of which entries along one axis are told apart."""
    t.ordered(x.dims[axis])
    return opaque(t, x)


@rule("argmax", "argmin")
def place_of_greatest(t: Reader, x: Value, axis: int | None = None, *_: Any) -> list[Dim]:
    """Where the greatest entry stands."""
    t.ordered(*(x.dims if axis is None else [x.dims[axis]]))
    return reduced(t, Value(opaque(t, x)), axis)


@rule("topk", "sort", "kthvalue", "max", "median", "min", "mode", "cummax", "cummin")
def ranked(t: Reader, x: Value, *options: Any) -> Any:
    """Entries by rank, and where they stand."""
    if not isinstance(t.node.meta["val"], (tuple, list)):
        if options and isinstance(options[0], Value):
            return opaque(t, x, options[0])
        return reduced(t, Value(opaque(t, x)), None)
    schema = t.node.target._schema.arguments  # type: ignore[union-attr]
    names = [argument.name for argument in schema[1:]]
    axis = options[names.index("dim")] % len(x)
    out = _ordered(t, x, axis)
    made = out if t.shape == x.shape else reduced_rank(t, out, axis)
    return made, list(made)


def reduced_rank(t: Reader, dims: list[Dim], axis: int) -> list[Dim]:
    """Dimensions of which one is shortened, or gone."""
    if len(t.shape) < len(dims):
        return dims[:axis] + dims[axis + 1 :]
    return [*dims[:axis], t.fixed(t.shape[axis]), *dims[axis + 1 :]]


@rule("argsort")
def argsort(t: Reader, x: Value, axis: int = -1, *_: Any) -> list[Dim]:
    """Places by rank."""
    return _ordered(t, x, axis if isinstance(axis, int) and not isinstance(axis, bool) else -1)


@rule("cumsum", "cumprod", "logcumsumexp")
def running(t: Reader, x: Value, axis: int, *_: Any) -> list[Dim]:
    """Running sums: the order along the axis has a meaning."""
    return _ordered(t, x, axis)
