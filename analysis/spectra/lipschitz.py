"""An upper bound of how far a network can move its output for a small move of its input: its Lipschitz constant in the Euclidean norm."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from weightspace import linalg
from weightspace.analysis.spectra import convolution
from weightspace.errors import AnalysisError
from weightspace.modules import shared_copy

_GELU, _SILU = 1.12904, 1.09984  # the largest slopes of x Phi(x) and x sigmoid(x)
_SLOPES = {
    nn.ReLU: 1.0, nn.ReLU6: 1.0, nn.Tanh: 1.0, nn.Hardtanh: 1.0, nn.Identity: 1.0, nn.Flatten: 1.0, nn.Dropout: 1.0, nn.Dropout2d: 1.0,
    nn.Softplus: 1.0, nn.Sigmoid: 0.25, nn.Softmax: 0.5, nn.GELU: _GELU, nn.SiLU: _SILU,
}  # fmt: skip
_FUNCTIONS: dict[Any, float] = {
    F.relu: 1.0, F.relu6: 1.0, torch.relu: 1.0, torch.tanh: 1.0, F.tanh: 1.0, torch.sigmoid: 0.25, F.sigmoid: 0.25, F.gelu: _GELU,
    F.silu: _SILU, F.softmax: 0.5, torch.softmax: 0.5, torch.flatten: 1.0, torch.reshape: 1.0, torch.permute: 1.0, torch.transpose: 1.0,
}  # fmt: skip
_METHODS = dict.fromkeys(("view", "reshape", "flatten", "permute", "transpose", "contiguous", "squeeze", "unsqueeze", "relu", "tanh"), 1.0)
_METHODS["sigmoid"] = 0.25


def module_bound(module: nn.Module, shape: Sequence[int]) -> float:
    """Bound the Lipschitz constant of a module in eval mode by what it does step by step.

    Layers multiply the bound by their operator norms, batch norms by their largest `|gamma| / sqrt(var + eps)`, sums add the bounds of what is
    summed: a residual block has that of its shortcut plus that of its branch. Concatenations take the root of the sum of squares. The bound holds for every input of
    this shape; it is seldom tight.

    Args:
        module: that torch.fx can trace.
        shape: of one input, without the batch.

    Raises:
        AnalysisError: the module cannot be traced, does not run on this shape, or has a step for which no bound can be stated.
    """
    try:
        traced = fx.symbolic_trace(nn.Sequential(shared_copy(module)).eval())  # inside another, a single layer is not taken apart
    except Exception as error:
        raise AnalysisError(
            f"{type(module).__name__} cannot be traced ({type(error).__name__}: {_first_line(error)}), so no bound can be stated; give a module without branches on values"
        ) from None
    walk = _Walk(traced)
    try:
        with torch.no_grad():
            walk.run(torch.zeros(2, *shape, dtype=next((one.dtype for one in module.parameters()), torch.float32)))
    except AnalysisError:
        raise
    except Exception as error:
        raise AnalysisError(
            f"{type(module).__name__} does not run on an input of shape {list(shape)} ({type(error).__name__}: {_first_line(error)}); give the shape of one input"
        ) from None
    return walk.result


def chain_bound(weights: Sequence[Tensor]) -> float:
    """The product of the spectral norms of dense layers: the bound of a chain of them with activations whose slope is at most one."""
    return math.prod(_spectral(weight) for weight in weights)


class _Walk(fx.Interpreter):
    """Runs a module on zeros for the sizes of what passes through it, and bounds every value on the way."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.bounds: dict[fx.Node, float] = {}
        self.values: dict[fx.Node, Any] = {}
        self.result = math.nan

    def run_node(self, n: fx.Node) -> Any:
        """Run one step, and bound its outcome."""
        found = super().run_node(n)
        self.values[n] = found
        if n.op == "output":
            self.result = math.hypot(*(self.bounds.get(one, 0.0) for one in n.all_input_nodes))
        elif isinstance(found, Tensor):
            self.bounds[n] = self._bound(n, found)
        return found

    def _bound(self, node: fx.Node, found: Tensor) -> float:
        moving = [one for one in node.all_input_nodes if self.bounds.get(one, 0.0) > 0]
        if node.op == "placeholder":
            if any(self.bounds.values()):
                raise AnalysisError(f"the module has a second input '{node.name}', so no bound can be stated; give one with a single input")
            return 1.0
        if node.op == "get_attr" or not moving:
            return 0.0
        own = [self.bounds[one] for one in moving]
        if node.target in (operator.add, operator.sub, torch.add, torch.sub, "add", "add_", "sub"):
            self._expect_alike(node, moving, found)
            total = sum(self.bounds.get(one, 0.0) for one in node.args if isinstance(one, fx.Node))  # x + x counts twice
            if node.target == "add_":
                changed: Any = node.args[0]
                self.bounds[changed] = total  # whoever reads it later reads the sum
            return total
        if node.target in (torch.cat, torch.concat):
            parts: Any = node.args[0]
            return math.hypot(*(self.bounds[one] for one in parts))
        if len(own) == 1 and isinstance(given := self.values[moving[0]], Tensor):
            return own[0] * self._factor(node, given, found)
        raise self._unknown(node)

    def _factor(self, node: fx.Node, given: Tensor, found: Tensor) -> float:
        """By how much a step with one moving input stretches it."""
        if node.op == "call_module":
            module = self.fetch_attr(str(node.target))
            factor = _of_module(module, given, found)
        else:
            factor = _FUNCTIONS.get(node.target) if node.op == "call_function" else _METHODS.get(str(node.target))
            if factor is None and node.target in (torch.mean, "mean"):
                factor = math.sqrt(found.numel() / given.numel()) if found.shape[:1] == given.shape[:1] else None  # not over the batch
            if factor is None and node.target in (operator.mul, operator.truediv, torch.mul, torch.div, "mul", "div"):
                factor = _scaled(node, self.values)
            if factor is None and node.target in (F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d):
                factor = _of_pooling(node, given, found, self.values)
            if factor is None and node.target in (F.pad, operator.getitem):
                factor = 1.0 if _is_selection(node) else None
        if factor is None:
            raise self._unknown(node)
        return factor

    def _expect_alike(self, node: fx.Node, moving: Sequence[fx.Node], found: Tensor) -> None:
        """See that what is summed is not repeated along an axis, which would stretch it."""
        if "alpha" in node.kwargs or any(self.values[one].shape != found.shape for one in moving):
            raise self._unknown(node)

    def _unknown(self, node: fx.Node) -> AnalysisError:
        target = str(node.target)
        what = (
            f"module '{target.removeprefix('0.')}' ({type(self.fetch_attr(target)).__name__})"
            if node.op == "call_module"
            else f"step '{node.name}' ({target})"
        )
        return AnalysisError(f"no bound can be stated for {what}; give a module of layers, batch norms, poolings, activations and sums")


def _of_module(module: nn.Module, given: Tensor, found: Tensor) -> float | None:
    if type(module) in _SLOPES:
        return _SLOPES[type(module)]
    match module:
        case nn.Linear():
            return _spectral(module.weight)
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            return _of_convolution(module, given)
        case nn.BatchNorm1d() | nn.BatchNorm2d() | nn.BatchNorm3d() if module.running_var is not None:
            gains = 1 / (module.running_var.double() + module.eps).sqrt()
            return float((gains if module.weight is None else gains * module.weight.double().abs()).max())
        case nn.LeakyReLU():
            return max(1.0, abs(module.negative_slope))
        case nn.ELU():
            return max(1.0, abs(module.alpha))
        case nn.MaxPool2d() | nn.AvgPool2d() | nn.AdaptiveAvgPool2d():
            return _pooled(module, given, found)
    return None


def _of_convolution(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, given: Tensor) -> float | None:
    """A zero-padded convolution does to an image what a circular one does to it with its padding, and then drops outputs."""
    if module.padding_mode != "zeros":
        return None
    weight, axes = module.weight.detach(), module.weight.ndim - 2
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


def _of_pooling(node: fx.Node, given: Tensor, found: Tensor, values: dict[fx.Node, Any]) -> float | None:
    """A pooling that is called as a function, with a window and a step and nothing else."""
    if node.target is F.adaptive_avg_pool2d:
        return _adaptive(given, found)
    window, *steps = (values[one] if isinstance(one, fx.Node) else one for one in node.args[1:])
    if len(steps) > 1 or set(node.kwargs) - {"stride"}:
        usual = {"padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}
        if len(steps) > 1 or any(usual.get(key, value is None) != value for key, value in node.kwargs.items() if key != "stride"):
            return None
    step = steps[0] if steps else node.kwargs.get("stride")
    return _windows(_pair(window), _pair(window if step is None else step), node.target is F.avg_pool2d)


def _is_selection(node: fx.Node) -> bool:
    """Whether a step only leaves entries out or puts constants beside them."""
    if node.target is F.pad:
        return node.kwargs.get("mode", node.args[2] if len(node.args) > 2 else "constant") == "constant"
    index = node.args[1] if isinstance(node.args[1], tuple) else (node.args[1],)
    return all(one is None or one is Ellipsis or isinstance(one, int | slice) for one in index)


def _adaptive(given: Tensor, found: Tensor) -> float | None:
    """Means of windows that do not overlap."""
    if any(length % parts for length, parts in zip(given.shape[2:], found.shape[2:], strict=True)):
        return None
    return math.sqrt(found.shape[2:].numel() / given.shape[2:].numel())


def _scaled(node: fx.Node, values: dict[fx.Node, Any]) -> float | None:
    """The factor of a product with a number, or quotient by one."""
    numbers = [one for one in node.args if isinstance(one, int | float)]
    if len(numbers) != 1 or (node.target in (operator.truediv, torch.div, "div") and node.args[0] is numbers[0]):
        return None
    return float(abs(1 / numbers[0] if node.target in (operator.truediv, torch.div, "div") else numbers[0]))


def _spectral(weight: Tensor) -> float:
    return float(linalg.singular_values(weight.detach())[0])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))
