"""Running networks: all of a batch on the same inputs at once, differentiable in inputs and weights."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.conv import _ConvNd

from weightspace.errors import MetanetError, ShapeMismatchError, TaskError
from weightspace.metanets.batch import WeightBatch
from weightspace.modules import shared_copy, tensors_of
from weightspace.naming import wrapper_prefix

CHUNK = 128
"""Networks that are run at a time, unless told otherwise."""


def run(batch: WeightBatch, inputs: Shaped[Tensor, "examples ..."], *, chunk: int = CHUNK) -> Float[Tensor, "networks ..."]:
    """Run every network of a batch on the same inputs.

    They run in eval mode through `torch.func.vmap`, or one after another where that is faster or the only way. What the spec
    does not hold, such as counters and tables of positions, is the module's own. Running statistics get no gradient.

    Args:
        batch: with its module.
        inputs: one batch of inputs, brought to the weights' dtype where they are floats, and to their device.
        chunk: networks at a time.

    Returns:
        (networks, *shape of the module's output).

    Raises:
        MetanetError: the module is missing, has other tensors, fails on the inputs, or returns no tensor.
    """
    if batch.module is None:
        raise MetanetError("these networks are to be run, but came without a module; give modules=... beside the weights")
    first = next(iter(batch.tensors.values()))
    given = inputs.to(first.device, first.dtype if inputs.is_floating_point() else inputs.dtype)
    tensors, rest = _named_as_in(batch.module, batch.tensors)
    runner = _in_eval_mode(batch.module)

    def output(own: Mapping[str, Tensor]) -> Tensor:
        made = functional_call(runner, {**rest, **own}, (given,))
        if not isinstance(made, Tensor):
            name = type(batch.module).__name__
            raise MetanetError(f"module {name} returned a {type(made).__name__}, expected a tensor; wrap it in one that returns a tensor")
        return made

    with _without_fast_path():
        return _all(output, tensors, chunk, _is_mapped(runner, first.device))


def _all(output: Callable[[Mapping[str, Tensor]], Tensor], tensors: Mapping[str, Tensor], chunk: int, is_mapped: bool) -> Tensor:
    """The outputs of all networks, all at once where that is asked for and the module's operations can be mapped."""
    try:
        if is_mapped:
            try:
                return vmap(output, chunk_size=chunk)(dict(tensors))
            except RuntimeError:  # no batching rule, or a branch that looks at values
                pass
        count = len(next(iter(tensors.values())))
        return torch.stack([output({name: tensor[at] for name, tensor in tensors.items()}) for at in range(count)])
    except MetanetError:
        raise
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise MetanetError(
            f"a network cannot be run on inputs that it was given ({type(error).__name__}: {error}); give the shape of its inputs"
        ) from error


def _is_mapped(module: nn.Module, device: torch.device) -> bool:
    """Whether all networks at once are faster than one after another.

    Recurrent layers have no batching rule. Convolutions of many networks become grouped ones, which processors are slow at: 64 small
    CNNs on 64 images took 422 ms at once and 75 ms one by one, on one core.
    """
    if any(isinstance(part, nn.RNNBase) for part in module.modules()):
        return False
    return device.type != "cpu" or not any(isinstance(part, _ConvNd) for part in module.modules())


def _named_as_in(module: nn.Module, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The stacked tensors by the module's names, and the module's others on their device, in their dtype.

    Raises:
        MetanetError: the module has not these tensors.
    """
    first = next(iter(tensors.values()))
    state = module.state_dict()
    ours, theirs = wrapper_prefix(state), wrapper_prefix(tensors)
    counters = {theirs + name[len(ours) :]: one for name, one in state.items() if not one.is_floating_point()}
    try:
        found = tensors_of(module, {**counters, **{name: tensor[0] for name, tensor in tensors.items()}})
    except (TaskError, ShapeMismatchError) as error:
        raise MetanetError(str(error)) from None
    buffers = dict(module.named_buffers())
    named = {name: tensors[own].detach() if name in buffers else tensors[own] for name, own in found.items() if own in tensors}
    others = {name: buffer for name, buffer in buffers.items() if name not in named}
    moved = {name: one.to(first.device, first.dtype if one.is_floating_point() else one.dtype) for name, one in others.items()}
    return named, moved


def _in_eval_mode(module: nn.Module) -> nn.Module:
    """The module itself where it is in eval mode; else a copy, so that the caller's stays as it is."""
    return shared_copy(module).eval() if any(part.training for part in module.modules()) else module


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Run attention by its single operations: the fused ones have no rule for many networks at once."""
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


__all__ = ["CHUNK", "run"]
