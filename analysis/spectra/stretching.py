"""By how much one layer or one call stretches what it is given, at most: slopes of activations, operator norms of weights, windows of poolings."""

import math
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from weightspace import linalg
from weightspace.analysis.spectra import convolution

_GELU, _SILU = 1.12904, 1.09984  # the largest slopes of x Phi(x), also where tanh stands for Phi, and x sigmoid(x)
_SLOPES = {
    nn.ReLU: 1.0, nn.ReLU6: 1.0, nn.Tanh: 1.0, nn.Hardtanh: 1.0, nn.Identity: 1.0, nn.Flatten: 1.0, nn.Dropout: 1.0, nn.Dropout2d: 1.0,
    nn.Sigmoid: 0.25, nn.Softmax: 0.5, nn.GELU: _GELU, nn.SiLU: _SILU,
}  # fmt: skip
_FUNCTIONS: dict[Any, float] = {
    F.relu: 1.0, F.relu6: 1.0, torch.relu: 1.0, torch.tanh: 1.0, F.tanh: 1.0, torch.sigmoid: 0.25, F.sigmoid: 0.25, F.gelu: _GELU,
    F.silu: _SILU, F.softmax: 0.5, torch.softmax: 0.5, torch.flatten: 1.0, torch.reshape: 1.0, torch.permute: 1.0, torch.transpose: 1.0,
}  # fmt: skip
_METHODS = dict.fromkeys(("view", "reshape", "flatten", "permute", "transpose", "contiguous", "squeeze", "unsqueeze", "relu", "tanh"), 1.0)
_METHODS["sigmoid"] = 0.25
_QUOTIENTS = (operator.truediv, torch.div, "div")
_SCALINGS = (operator.mul, torch.mul, "mul", *_QUOTIENTS)


def of_module(module: nn.Module, given: Tensor, found: Tensor) -> float | None:
    """The factor of a layer that was given one value and made another; None where no bound is known."""
    if type(module) in _SLOPES:
        return _SLOPES[type(module)]
    match module:
        case nn.Linear():
            return spectral(module.weight)
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            return _of_convolution(module, given)
        case nn.BatchNorm1d() | nn.BatchNorm2d() | nn.BatchNorm3d() if module.running_var is not None:
            gains = 1 / (module.running_var.double() + module.eps).sqrt()
            return float((gains if module.weight is None else gains * module.weight.double().abs()).max())
        case nn.Softplus() if module.threshold >= 20:  # where it goes over to x it jumps, which there is too little to be seen
            return 1.0
        case nn.LeakyReLU():
            return max(1.0, abs(module.negative_slope))
        case nn.ELU():
            return max(1.0, abs(module.alpha))
        case nn.MaxPool2d() | nn.AvgPool2d() | nn.AdaptiveAvgPool2d():
            return _pooled(module, given, found)
    return None


def _of_convolution(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, given: Tensor) -> float | None:
    """A zero-padded convolution does to an image what a circular one does to it with its padding, and then drops outputs."""
    weight, axes = module.weight.detach(), module.weight.ndim - 2
    if module.padding_mode != "zeros" or given.ndim != weight.ndim:
        return None
    reach = [step * (length - 1) for step, length in zip(module.dilation, weight.shape[2:], strict=True)]
    padding = (
        {"same": reach, "valid": [0] * axes}[module.padding] if isinstance(module.padding, str) else [2 * one for one in module.padding]
    )
    image = [length + more for length, more in zip(given.shape[2:], padding, strict=True)]
    spread = weight.new_zeros(*weight.shape[:2], *(one + 1 for one in reach))
    places: Any = (..., *(slice(None, None, step) for step in module.dilation))
    spread[places] = weight
    return convolution.operator_norm(spread, image, groups=module.groups)


def _pooled(module: nn.Module, given: Tensor, found: Tensor) -> float | None:
    """By the number of windows that an input is in: its move counts in each."""
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return _adaptive(given, found)
    window, step = _pair(module.kernel_size), _pair(module.stride or module.kernel_size)
    if isinstance(module, nn.AvgPool2d):
        smaller = module.ceil_mode or (any(_pair(module.padding)) and not module.count_include_pad)  # windows at the border divide by less
        return None if smaller or module.divisor_override is not None else _windows(window, step, is_mean=True)
    return _windows(window, step, is_mean=False) if _pair(module.dilation) == (1, 1) else None


def _windows(window: tuple[int, int], step: tuple[int, int], is_mean: bool) -> float:
    shared = math.prod(-(-length // one) for length, one in zip(window, step, strict=True))
    return math.sqrt(shared / math.prod(window)) if is_mean else math.sqrt(shared)


_POOLINGS: dict[Any, tuple[str, ...]] = {
    F.max_pool2d: ("input", "kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    F.avg_pool2d: ("input", "kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    F.adaptive_avg_pool2d: ("input", "output_size"),
}


def _of_pooling(node: fx.Node, given: Tensor, found: Tensor, values: Mapping[fx.Node, Any]) -> float | None:
    """A pooling that is called as a function, with a window and a step and nothing else."""
    named = arguments_of(node, *_POOLINGS[node.target])
    if named is None or node.target is F.adaptive_avg_pool2d:
        return None if named is None else _adaptive(given, found)
    usual = {"padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False, "count_include_pad": True, "divisor_override": None}
    if any(usual[key] != value for key, value in named.items() if key in usual):
        return None
    window, step = (fx.map_arg(named.get(key), values.__getitem__) for key in ("kernel_size", "stride"))
    return _windows(_pair(window), _pair(step or window), is_mean=node.target is F.avg_pool2d)


def _is_selection(node: fx.Node) -> bool:
    """Whether a step only leaves entries out or puts constants beside them."""
    if node.target is F.pad:
        return node.kwargs.get("mode", node.args[2] if len(node.args) > 2 else "constant") == "constant"
    index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    return all(one is None or one is Ellipsis or isinstance(one, int | slice) for one in index)


def _adaptive(given: Tensor, found: Tensor) -> float | None:
    """Means of windows that do not overlap."""
    if given.ndim != 4 or any(length % parts for length, parts in zip(given.shape[2:], found.shape[2:], strict=True)):
        return None
    return math.sqrt(found.shape[2:].numel() / given.shape[2:].numel())


def _scaled(node: fx.Node) -> float | None:
    """The factor of a product with a number, or quotient by one."""
    named = arguments_of(node, "input", "other") or {}
    numbers = {key: one for key, one in named.items() if isinstance(one, int | float)}
    if node.target in _QUOTIENTS:
        return abs(1 / numbers["other"]) if numbers.keys() == {"other"} and numbers["other"] else None
    return float(abs(next(iter(numbers.values())))) if len(numbers) == 1 else None


def of_call(node: fx.Node, given: Tensor, found: Tensor, values: Mapping[fx.Node, Any]) -> float | None:
    """The factor of a function or method that was called; None where no bound is known.

    Args:
        node: the call.
        given: the one value in its arguments that moves.
        found: what it made.
        values: of all steps so far.
    """
    factor = _FUNCTIONS.get(node.target) if node.op == "call_function" else _METHODS.get(str(node.target))
    if node.target in (torch.mean, "mean"):
        factor = math.sqrt(found.numel() / given.numel())
    elif node.target in _SCALINGS:
        factor = _scaled(node)
    elif node.target in _POOLINGS:
        factor = _of_pooling(node, given, found, values)
    elif node.target in (F.pad, operator.getitem) and _is_selection(node):
        factor = 1.0
    return factor


def spectral(weight: Tensor) -> float:
    """The operator norm of a dense layer: its largest singular value."""
    return float(linalg.singular_values(weight.detach())[0])


def arguments_of(node: fx.Node, *names: str) -> dict[str, Any] | None:
    """What a step is called with, by name; None where that is more, or called otherwise."""
    if len(node.args) > len(names):
        return None
    given = dict(zip(names, node.args, strict=False))
    return given | node.kwargs if not node.kwargs.keys() - (set(names) - given.keys()) else None


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))
