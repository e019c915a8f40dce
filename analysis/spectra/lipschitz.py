"""An upper bound of how far a network can move its output for a small move of its input: its Lipschitz constant in the Euclidean norm."""

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from weightspace.analysis.spectra.stretching import arguments_of, of_call, of_module, spectral
from weightspace.errors import AnalysisError
from weightspace.modules import shared_copy

_SUMS = (operator.add, operator.sub, torch.add, torch.sub, "add", "add_", "sub")
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
    return math.prod(spectral(weight) for weight in weights) * slope ** max(0, len(weights) - 1)


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
        if node.target in _SUMS and (given := arguments_of(node, "input", "other")) is not None:
            # Nothing that is summed may be repeated along an axis, which would stretch it.
            if isinstance(found, Tensor) and all(self.env[one].shape == found.shape for one in moving):
                return sum(self.bounds[one] for one in _nodes(given))  # x + x counts twice
        elif node.target in (torch.cat, torch.concat) and (given := arguments_of(node, "tensors", "dim")) is not None:
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
            return of_module(self.fetch_attr(str(node.target)), given, found)
        return of_call(node, given, found, self.env)

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


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
