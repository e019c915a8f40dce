"""State dicts with some of their parameters replaced, tied ones together."""

from collections.abc import Mapping

from torch import Tensor

from weightspace.modules import tensors_of
from weightspace.symmetry import StateDict
from weightspace.task import Task


def parameters_of(task: Task, state: StateDict) -> list[str]:
    """The names that a state dict has for the parameters of a task's module, tied ones once; buffers are left out."""
    parameters = dict(task.module.named_parameters())
    return [own for name, own in tensors_of(task.module, state).items() if name in parameters]


def replaced(state: StateDict, changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with new tensors, also under the further names of those that are tied."""
    by_place = {_place(state[name]): tensor for name, tensor in changes.items()}
    return {name: changes.get(name, by_place.get(_place(tensor), tensor)) for name, tensor in state.items()}


def _place(tensor: Tensor) -> tuple[object, ...]:
    return tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.numel() or id(tensor)


__all__ = ["parameters_of", "replaced"]
