"""What a proof and a trace are called with, checked before anything runs."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from weightspace.errors import SymmetryError
from weightspace.spec import SymmetrySpec


def expect_spec(spec: Any) -> None:
    """See that what is to be proved is a spec.

    Raises:
        SymmetryError: it is something else, a module say.
    """
    if not isinstance(spec, SymmetrySpec):
        hint = "give the spec first and the module second" if isinstance(spec, nn.Module) else "make one with SymmetrySpec.parse or trace"
        raise SymmetryError(f"expected a SymmetrySpec, found a {type(spec).__name__}; {hint}")


def expect_module(module: Any) -> None:
    """See that what is to be traced or proved is a module, neither its class nor a function.

    Raises:
        SymmetryError: it is something else.
    """
    if isinstance(module, nn.Module):
        return
    if isinstance(module, type):
        raise SymmetryError(f"expected an nn.Module, found the class {module.__name__}; give an instance of it")
    if isinstance(module, SymmetrySpec):
        raise SymmetryError("expected an nn.Module, found a SymmetrySpec; give the spec first and the module second")
    raise SymmetryError(f"expected an nn.Module, found a {type(module).__name__}; wrap what it does in the forward of a module")


def expect_values(module: nn.Module, inputs: Any) -> None:
    """See that the tensors of a module and its inputs have values.

    Raises:
        SymmetryError: one is on the meta device.
    """
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and tensor.is_meta:
            raise SymmetryError(
                f"tensor '{name}' is on the meta device and has no values; give it some, with module.to_empty(device='cpu')"
            )
    for k, leaf in enumerate(tree_leaves(inputs)):
        if isinstance(leaf, Tensor) and leaf.is_meta:
            raise SymmetryError(f"input {k} is on the meta device and has no values; give an input on the cpu")


def expect_entries(outputs: Sequence[Tensor]) -> None:
    """See that the outputs hold anything: of an empty batch everything is true.

    Raises:
        SymmetryError: they are all empty.
    """
    if outputs and all(math.prod(output.shape) == 0 for output in outputs):
        raise SymmetryError(
            f"the outputs are empty, of shape {list(outputs[0].shape)}, so nothing can be said about them; give inputs with at least one example"
        )


def expect_thresholds(draws: int, tolerance: float, contrast: float) -> None:
    """See that the settings of a proof can tell anything apart.

    Raises:
        SymmetryError: no draws, or a threshold that is no positive number.
    """
    if draws < 1:
        raise SymmetryError(f"expected at least one draw, found draws={draws}; three are usual")
    for name, value, usual in (("tolerance", tolerance, 1e-9), ("contrast", contrast, 1e-3)):
        if not (math.isfinite(value) and value > 0):
            raise SymmetryError(f"expected a positive {name}, found {name}={value}; {usual:g} is usual")
