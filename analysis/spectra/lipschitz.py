"""An upper bound of how far a network can move its output for a small move of its input: its Lipschitz constant in the Euclidean norm."""

import math
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from weightspace import linalg
from weightspace.analysis.spectra import convolution
from weightspace.errors import AnalysisError
from weightspace.modules import shared_copy

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
_SUMS = (operator.add, operator.sub, torch.add, torch.sub, "add", "add_", "sub")
_QUOTIENTS = (operator.truediv, torch.div, "div")
_SCALINGS = (operator.mul, torch.mul, "mul", *_QUOTIENTS)
_SPLITS = (torch.chunk, torch.split, torch.tensor_split, torch.unbind, "chunk", "split", "tensor_split", "unbind")
_SIZES = {"size", "dim", "numel", "shape", "ndim", "dtype", "device"}  # of a tensor, whatever its values


def module_bound(module: nn.Module, shape: Sequence[int]) -> float:
    """Bound the Lipschitz constant of a module in eval mode by what it does step by step.

    Layers multiply the bound by their operator norms, batch norms by their largest `|gamma| / sqrt(var + eps)`, sums add the bounds of what is
    summed: a residual block has that of its shortcut plus that of its branch. Concatenations take the root of the sum of squares. The bound holds for every input of
    this shape; it is seldom tight. Products of two values that both move have no bound for every input (so no attention has), and what a step
    changes in place is bounded anew wherever it is read.

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
        # One input, since of several a mean over the batch would have a smaller bound. Versions tell what was changed in place.
        with torch.inference_mode(False), torch.no_grad():
            walk.run(torch.zeros(1, *shape, dtype=next((one.dtype for one in module.parameters()), torch.float32)))
    except AnalysisError:
        raise
    except Exception as error:
        raise AnalysisError(
            f"{type(module).__name__} does not run on an input of shape {list(shape)} ({type(error).__name__}: {_first_line(error)}); give the shape of one input"
        ) from None
    if math.isnan(walk.result):
        raise AnalysisError(f"{type(module).__name__} has weights that are NaN or infinite, expected finite ones; repair them")
    return walk.result


def chain_bound(weights: Sequence[Tensor], *, slope: float = 1.0) -> float:
    """The product of the spectral norms of dense layers: the bound of a chain of them.

    Args:
        weights: of the layers, first to last.
        slope: the largest of the activations that stand between two layers.
    """
    return math.prod(_spectral(weight) for weight in weights) * slope ** max(0, len(weights) - 1)


class _Walk(fx.Interpreter):
    """Runs a module on zeros for the sizes of what passes through it, and bounds every value on the way; of several values, all at once."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.extra_traceback = False  # it would be put behind what our errors say
        self.bounds: dict[fx.Node, float] = {}
        self.held: list[tuple[Tensor, int]] = []
        self.result = math.nan

    def run_node(self, n: fx.Node) -> Any:
        """Run one step, and bound its outcome."""
        if n.op == "call_module":
            self._expect_plain(n)
        before = {one: [part._version for part in _tensors(value)] for one, value in self.env.items()}
        found = super().run_node(n)
        if n.op == "output":
            self.result = math.hypot(*(self.bounds[one] for one in _nodes(n.args)))
            return found
        if n.op == "get_attr" and isinstance(found, Tensor):
            self.held.append((found, found._version))
        self.bounds[n] = self._bound(n, found)
        for one, versions in before.items():
            if versions != [part._version for part in _tensors(self.env[one])]:
                if not _is_same(self.env[one], found):
                    raise self._unknown(n)
                self.bounds[one] = self.bounds[n]  # whoever reads it later reads what it was changed to
        if any(tensor._version != version for tensor, version in self.held):
            raise self._unknown(n)
        return found

    def _bound(self, node: fx.Node, found: Any) -> float:
        moving = [one for one in node.all_input_nodes if self.bounds[one] != 0]
        if node.op == "placeholder":
            if any(self.bounds.values()):
                raise AnalysisError(f"the module has a second input '{node.name}', so no bound can be stated; give one with a single input")
            return 1.0
        if node.op == "get_attr" or not moving or (not isinstance(found, Tensor) and _is_size(node)):
            return 0.0
        if node.target in _SUMS and (given := _arguments(node, "input", "other")) is not None:
            # Nothing that is summed may be repeated along an axis, which would stretch it.
            if isinstance(found, Tensor) and all(self.env[one].shape == found.shape for one in moving):
                return sum(self.bounds[one] for one in _nodes(given))  # x + x counts twice
        elif node.target in (torch.cat, torch.concat) and (given := _arguments(node, "tensors", "dim")) is not None:
            return math.hypot(*(self.bounds[one] for one in _nodes(given)))
        elif len(moving) == 1 and (factor := self._factor(node, self.env[moving[0]], found)) is not None:
            return self.bounds[moving[0]] * factor
        raise self._unknown(node)

    def _factor(self, node: fx.Node, given: Any, found: Any) -> float | None:
        """By how much a step with one moving input stretches it."""
        if node.target in _SPLITS or (node.target is operator.getitem and not isinstance(given, Tensor)):
            return 1.0  # parts of it, each once
        if not (isinstance(given, Tensor) and isinstance(found, Tensor) and given.dtype == found.dtype):
            return None
        if node.op == "call_module":
            return _of_module(self.fetch_attr(str(node.target)), given, found)
        factor = _FUNCTIONS.get(node.target) if node.op == "call_function" else _METHODS.get(str(node.target))
        if node.target in (torch.mean, "mean"):
            factor = math.sqrt(found.numel() / given.numel())
        elif node.target in _SCALINGS:
            factor = _scaled(node)
        elif node.target in _POOLINGS:
            factor = _of_pooling(node, given, found, self.env)
        elif node.target in (F.pad, operator.getitem) and _is_selection(node):
            factor = 1.0
        return factor

    def _expect_plain(self, node: fx.Node) -> None:
        """See that a layer does what its type says, and does not need a batch to run."""
        module = self.fetch_attr(str(node.target))
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        # The hooks of torch's own weight norm compute the weight; any other may do what it likes to what passes.
        ours = all(type(one).__module__.startswith("torch.nn.utils.") for one in hooks) and type(module).__module__.startswith("torch.nn.")
        if not ours or (isinstance(module, nn.modules.batchnorm._NormBase) and module.running_var is None):
            raise self._unknown(node)

    def _unknown(self, node: fx.Node) -> AnalysisError:
        target = str(node.target)
        what = (
            f"module '{target.removeprefix('0.')}' ({type(self.fetch_attr(target)).__name__})"
            if node.op == "call_module"
            else f"step '{node.name}' ({target})"
        )
        return AnalysisError(f"no bound can be stated for {what}; give a module of layers, batch norms, poolings, activations and sums")


def _nodes(arguments: Any) -> list[fx.Node]:
    """The nodes in the arguments of a step, each as often as it stands there."""
    found: list[fx.Node] = []
    fx.map_arg(arguments, found.append)
    return found


def _arguments(node: fx.Node, *names: str) -> dict[str, Any] | None:
    """What a step is called with, by name; None where that is more, or called otherwise."""
    if len(node.args) > len(names):
        return None
    given = dict(zip(names, node.args, strict=False))
    return given | node.kwargs if not node.kwargs.keys() - (set(names) - given.keys()) else None


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, tuple | list):
        return [tensor for one in value for tensor in _tensors(one)]
    return [value] if isinstance(value, Tensor) else []


def _is_same(one: Any, other: Any) -> bool:
    """Whether two tensors are of the same entries in the same places."""
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)) or (one.data_ptr(), one.numel()) != (other.data_ptr(), other.numel()):
        return False
    return (one.is_contiguous() and other.is_contiguous()) or (one.shape, one.stride()) == (other.shape, other.stride())


def _is_size(node: fx.Node) -> bool:
    return node.target in _SIZES if node.op == "call_method" else node.target is getattr and node.args[1] in _SIZES


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
    named = _arguments(node, *_POOLINGS[node.target])
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
    named = _arguments(node, "input", "other") or {}
    numbers = {key: one for key, one in named.items() if isinstance(one, int | float)}
    if node.target in _QUOTIENTS:
        return abs(1 / numbers["other"]) if numbers.keys() == {"other"} and numbers["other"] else None
    return float(abs(next(iter(numbers.values())))) if len(numbers) == 1 else None


def _spectral(weight: Tensor) -> float:
    return float(linalg.singular_values(weight.detach())[0])


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))
