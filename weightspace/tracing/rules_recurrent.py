"""Recurrent layers, by hand: gates are equal ranges of one axis that share a group, which the hidden-to-hidden weights have twice."""

from collections.abc import Sequence

from weightspace.tracing.degrees import Equations
from weightspace.tracing.dims import Dim, cut, size
from weightspace.tracing.reader import Reader, operation_name, rule
from weightspace.tracing.rules_elementwise import Change
from weightspace.tracing.rules_shape import Stack
from weightspace.tracing.values import Value


def _gates(t: Reader, rows: Dim, gates: int) -> list[Dim]:
    width = size(rows) // gates
    return [cut(rows, k * width, (k + 1) * width) for k in range(gates)]


def _direction(t: Reader, x: Dim, weights: Sequence[Value], change: Change, name: str) -> tuple[Dim, Dim]:
    """Read one layer in one direction: the dimensions of its state and of its cell.

    An LSTM with a projection has a further matrix, and a state of another width than its cell.
    """
    into, again, *others = weights
    projection = others.pop() if others and len(others[-1]) == 2 else None
    width = size(again.dims[1]) if projection is None else size(projection.dims[1])
    gates = size(into.dims[0]) // width
    t.contract(x, into.dims[1])
    sums = t.same(*(part for value in (into, again, *others) for part in _gates(t, value.dims[0], gates)))
    t.role(sums, name)
    cell = t.changed(sums, change)
    state = cell
    if projection is not None:
        t.contract(cell, projection.dims[1])
        state = projection.dims[0]
    t.contract(state, again.dims[1])
    return state, cell


def _layers(
    t: Reader, x: Value, weights: Sequence[Value], layers: int, both: bool, change: Change
) -> tuple[list[Dim], list[Dim], list[Dim]]:
    """Read all layers: the features of the output, and each layer's state and cell."""
    directions = 2 if both else 1
    each = len(weights) // (layers * directions)
    features, states, cells = x.dims[-1], [], []
    for layer in range(layers):
        found = []
        for direction in range(directions):
            start = (layer * directions + direction) * each
            name = f"layer{layer}{'_reverse' * direction}"
            state, cell = _direction(t, features, weights[start : start + each], change, name)
            found.append(state)
            cells.append(cell)
        states += found
        features = tuple(term for state in found for term in state)
    return [features], states, cells


def _start(t: Reader, given: Value, found: list[Dim]) -> None:
    """Initial states are indexed as the states are, unless they are constant."""
    for k, state in enumerate(found):
        if not given.zero:
            t.plain(t.same(state, t.pick(given, 0, k)[-1]))


def _stack(t: Reader, batch: list[Dim], found: list[Dim]) -> Stack:
    return Stack(t, [Value([*batch, terms]) for terms in found])


def _batch(x: Value, batch_first: bool) -> list[Dim]:
    return [x.dims[0 if batch_first else 1]] if len(x) == 3 else []


def _order_matters(t: Reader, x: Value, batch_first: bool) -> None:
    """Time has a direction."""
    time = x.dims[1 if batch_first and len(x) == 3 else 0]
    t.fix(time)
    t.plain(*x.dims[:-1])


@rule("lstm")
def lstm(
    t: Reader,
    x: Value,
    start: list[Value],
    weights: list[Value],
    biased: bool,
    layers: int,
    dropout: float,
    training: bool,
    both: bool,
    batch_first: bool,
) -> tuple[list[Dim], Stack, Stack]:
    """Long short-term memory."""
    _order_matters(t, x, batch_first)
    features, states, cells = _layers(t, x, weights, layers, both, Equations.zero)
    _start(t, start[0], states)
    _start(t, start[1], cells)
    batch = _batch(x, batch_first)
    return [*x.dims[:-1], *features], _stack(t, batch, states), _stack(t, batch, cells)


@rule("gru", "rnn_tanh", "rnn_relu")
def recurrent(
    t: Reader,
    x: Value,
    start: Value,
    weights: list[Value],
    biased: bool,
    layers: int,
    dropout: float,
    training: bool,
    both: bool,
    batch_first: bool,
) -> tuple[list[Dim], Stack]:
    """Gated recurrent units and plain recurrent layers."""
    _order_matters(t, x, batch_first)
    change = {"rnn_tanh": Equations.odd, "rnn_relu": Equations.homogeneous}.get(operation_name(t.node), Equations.zero)
    features, states, _ = _layers(t, x, weights, layers, both, change)
    _start(t, start, states)
    return [*x.dims[:-1], *features], _stack(t, _batch(x, batch_first), states)
