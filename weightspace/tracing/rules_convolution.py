"""Convolutions, pooling and resampling: channels are followed, positions and kernel cells are fixed."""

import re
from typing import Any

from weightspace.tracing.degrees import Equations
from weightspace.tracing.dims import Dim, product, size, split_tail
from weightspace.tracing.reader import Reader, operation_name, rule
from weightspace.tracing.rules_elementwise import summed
from weightspace.tracing.values import Value


def convolved(t: Reader, x: Value, weight: Value, bias: Value | None, groups: int, *, transposed: bool, pointwise: bool) -> list[Dim]:
    """Channels of a convolution, ordinary, grouped `(grp o) i` or depthwise, are contracted group by group."""
    spatial = len(weight) - 2
    lead, channels, positions = x.dims[: -spatial - 1], x.dims[-spatial - 1], x.dims[-spatial:]
    group, inner = split_tail(channels, size(channels) // groups)
    if transposed:
        same_group, consumer = split_tail(weight.dims[0], size(weight.dims[0]) // groups)
        outer = weight.dims[1]
    else:
        same_group, outer = split_tail(weight.dims[0], size(weight.dims[0]) // groups)
        consumer = weight.dims[1]
    t.contract(inner, consumer)
    if size(inner) == 1 < groups:
        t.gain(weight)
    t.role(group, "group")
    t.role(inner, "channel")
    t.role(outer, "channel")
    t.witness(*lead, group, inner, outer)
    t.fix(*weight.dims[2:])
    made = product([t.times(group, same_group), outer])
    if pointwise:
        places = list(positions)
    else:
        t.fix(*positions)
        places = [t.fixed(n) for n in t.shape[-spatial:]]
    out = Value([*lead, made, *places])
    return summed(t, out, Value([bias.dims[0], *([((),)] * spatial)])) if bias is not None else out.dims


def _is_pointwise(weight: Value, stride: Any, padding: Any) -> bool:
    strides = [stride] if isinstance(stride, int) else stride
    pads = [padding] if isinstance(padding, int) else padding
    return (
        all(size(terms) == 1 for terms in weight.dims[2:])
        and all(n == 1 for n in strides)
        and (pads == "same" or all(n in (0, "v") for n in pads[:1]))
    )


@rule("conv1d", "conv2d", "conv3d")
def conv(t: Reader, x: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, dilation: Any, groups: int) -> list[Dim]:
    """Convolution."""
    return convolved(t, x, weight, bias, groups, transposed=False, pointwise=_is_pointwise(weight, stride, padding))


@rule("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def conv_transpose(
    t: Reader, x: Value, weight: Value, bias: Value | None, stride: Any, padding: Any, output_padding: Any, groups: int, *_: Any
) -> list[Dim]:
    """Transposed convolution."""
    return convolved(t, x, weight, bias, groups, transposed=True, pointwise=False)


@rule("convolution")
def convolution(
    t: Reader,
    x: Value,
    weight: Value,
    bias: Value | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
) -> list[Dim]:
    """Convolution of either kind."""
    pointwise = not transposed and _is_pointwise(weight, stride, padding)
    return convolved(t, x, weight, bias, groups, transposed=transposed, pointwise=pointwise)


def _resampled(t: Reader, x: Value, spatial: int) -> list[Dim]:
    t.ordered(*x.dims[-spatial:])
    return [*x.dims[:-spatial], *(t.fixed(n) for n in t.shape[-spatial:])]


@rule(
    "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_trilinear3d",
    "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d", "replication_pad2d", "replication_pad3d",
    "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
)  # fmt: skip
def resampled(t: Reader, x: Value, *_: Any) -> list[Dim]:
    """Linear maps of positions, the same for every channel."""
    return _resampled(t, x, _spatial(t))


@rule("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(t: Reader, x: Value, *_: Any) -> list[Dim]:
    """The greatest value of a window."""
    return [t.changed(terms, Equations.homogeneous) for terms in _resampled(t, x, _spatial(t))]


@rule(
    "max_pool2d_with_indices",
    "max_pool3d_with_indices",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "adaptive_max_pool3d",
    "max_pool1d_with_indices",
)
def max_pool_with_indices(t: Reader, x: Value, *_: Any) -> tuple[list[Dim], list[Dim]]:
    """The greatest value of a window, and its place."""
    out = max_pool(t, x)
    return out, [t.without_degree(terms) for terms in out]


def _spatial(t: Reader) -> int:
    found = re.search(r"([123])d", operation_name(t.node))
    return int(found[1]) if found else 2
