"""Normalisations: statistics over some dimensions, gains and shifts on the axes that are normalised."""

from collections.abc import Sequence
from typing import Any

from weightspace.tracing.dims import ONE, Dim, split_tail
from weightspace.tracing.reader import Reader, rule
from weightspace.tracing.rules_elementwise import mul, summed
from weightspace.tracing.values import Value


def affine(t: Reader, out: Value, gain: Value | None, shift: Value | None) -> list[Dim]:
    """A gain and a shift, broadcast to the value."""
    if gain is not None:
        out = Value(mul(t, out, gain))
    return summed(t, out, shift) if shift is not None else out.dims


def _per_channel(x: Value, parameter: Value | None) -> Value | None:
    return Value([ONE, parameter.dims[0], *[ONE] * (len(x) - 2)], held=parameter.held) if parameter is not None else None


def _normalised(t: Reader, x: Value) -> Value:
    """A value after an operation with which no scale commutes, for its epsilon at the least."""
    t.plain(*x.dims)
    return Value([t.without_degree(terms) for terms in x.dims])


@rule("batch_norm", "instance_norm")
def batch_norm(
    t: Reader, x: Value, gain: Value | None, shift: Value | None, mean: Value | None, variance: Value | None, training: bool, *_: Any
) -> list[Dim]:
    """Batch norm by running statistics, or by those of the batch; instance norm."""
    t.statistics |= {value.held: power for value, power in ((mean, 1), (variance, 2)) if value is not None and value.held}
    mean, variance = _per_channel(x, mean), _per_channel(x, variance)
    if mean is not None and variance is not None and not training:
        centred = Value(summed(t, x, mean))
        t.plain(*variance.dims)
        out = Value(mul(t, centred, Value([t.without_degree(terms) for terms in variance.dims])))
    else:
        out = _normalised(t, x)
        t.witness(x.dims[1])
        for statistic in (mean, variance):
            if statistic is not None:
                t.plain(t.same(out.dims[1], statistic.dims[1]))
    return affine(t, out, _per_channel(x, gain), _per_channel(x, shift))


@rule("_native_batch_norm_legit_no_training")
def batch_norm_eval(
    t: Reader, x: Value, gain: Value | None, shift: Value | None, mean: Value, variance: Value, *_: Any
) -> tuple[list[Dim], ...]:
    """Batch norm by running statistics."""
    return batch_norm(t, x, gain, shift, mean, variance, False), [()], [()]


@rule("layer_norm")
def layer_norm(t: Reader, x: Value, shape: Sequence[int], gain: Value | None, shift: Value | None, *_: Any) -> list[Dim]:
    """Layer norm over the last dimensions."""
    t.witness(*x.dims[: -len(shape)])
    return affine(t, _normalised(t, x), gain, shift)


@rule("rms_norm")
def rms_norm(t: Reader, x: Value, shape: Sequence[int], gain: Value | None, *_: Any) -> list[Dim]:
    """RMS norm over the last dimensions, which may be turned about as long as no gain tells their coordinates apart."""
    lead = x.dims[: -len(shape)]
    t.witness(*lead)
    t.plain(*lead)
    rounded = [t.rounded(terms) for terms in x.dims[-len(shape) :]]
    return affine(t, Value([*map(t.without_degree, lead), *rounded]), gain, None)


@rule("group_norm")
def group_norm(t: Reader, x: Value, groups: int, gain: Value | None, shift: Value | None, *_: Any) -> list[Dim]:
    """Group norm: channels are `(group channel)`."""
    group, channel = split_tail(x.dims[1], x.shape[1] // groups)
    t.role(group, "group")
    t.role(channel, "channel")
    t.witness(x.dims[0], group)
    return affine(t, _normalised(t, x), _per_channel(x, gain), _per_channel(x, shift))
