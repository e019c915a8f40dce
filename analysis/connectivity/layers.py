"""The layers that REPAIR can correct: which of them run, what follows each, and how their channels are scaled."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from weightspace.errors import TaskError, UnknownNameError
from weightspace.symmetry import StateDict
from weightspace.task import Task, tensors_in

BatchNorm = nn.modules.batchnorm._BatchNorm
_Conv = nn.modules.conv._ConvNd


@dataclass(frozen=True)
class Calls:
    """Which layers run for a batch: in which order, how often, and which batch norm takes just what a layer gave.

    Attributes:
        task: the task.
        names: of layers and batch norms, in the order of their first calls.
        repeated: those called more than once.
        normed: layers whose output goes straight into a batch norm.
        outputs: layers whose output is returned.
    """

    task: Task
    names: tuple[str, ...]
    repeated: frozenset[str]
    normed: frozenset[str]
    outputs: frozenset[str]

    @classmethod
    def of(cls, task: Task, state_dict: StateDict) -> "Calls":
        """Watch one batch."""
        modules = {name: module for name, module in task.module.named_modules() if _is_layer(module) or isinstance(module, BatchNorm)}
        order: list[str] = []
        made: list[tuple[str, Tensor, int]] = []  # kept alive for the batch, so that no storage is used twice
        normed: set[str] = set()

        def watch(name: str, given: Tensor, out: Tensor) -> None:
            order.append(name)
            if isinstance(modules[name], BatchNorm):
                normed.update(layer for layer, tensor, version in made if _is_same(tensor, version, given))
            made.append((name, out, out._version))

        _, returned = next(task.run(state_dict, {name: partial(watch, name) for name in modules}))
        last = {
            name
            for name, tensor, _ in made
            for one in tensors_in(returned)
            if one.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
        }
        names = tuple(dict.fromkeys(order))
        return cls(task, names, frozenset(name for name in names if order.count(name) > 1), frozenset(normed), frozenset(last))

    @property
    def norms(self) -> tuple[str, ...]:
        """Batch norms that keep running statistics."""
        buffers = dict(self.task.module.named_buffers())
        return tuple(name for name in self.names if f"{name}.running_mean" in buffers)

    def chosen(self, wanted: Sequence[str] | None) -> tuple[list[str], list[str]]:
        """The layers to correct, and notes on those that are left alone."""
        if wanted is None:
            plain = [name for name in self.names if not isinstance(self.task.module.get_submodule(name), BatchNorm)]
            ends = self.outputs | set(plain[-1:])
            names = [name for name in self.names if name not in ends and name not in self.normed]
        else:
            unknown = next((name for name in wanted if name not in self.names), None)
            if unknown is not None:
                raise UnknownNameError.of("convolution, linear layer or batch norm that runs", unknown, self.names)
            names = list(wanted)
        hindered = {name: reason for name in names if (reason := self._hindrance(name)) is not None}
        if wanted is not None and hindered:
            name, reason = next(iter(hindered.items()))
            raise TaskError(f"layer '{name}' cannot be corrected: {reason}; leave it out")
        chosen = [name for name in names if name not in hindered]
        parameters = dict(self.task.module.named_parameters(remove_duplicate=False))
        unshifted = [name for name in chosen if f"{name}.bias" not in parameters]
        notes = [f"layer '{name}' is left as it is: {reason}" for name, reason in hindered.items()]
        return chosen, [*notes, *(f"layer '{name}' has no bias: its deviation is corrected, its mean is not" for name in unshifted)]

    def _hindrance(self, name: str) -> str | None:
        module = self.task.module.get_submodule(name)
        parameters = dict(self.task.module.named_parameters(remove_duplicate=False))
        weight = parameters.get(f"{name}.weight")
        if name in self.repeated:
            return "it is called more than once"
        if weight is None:
            return "it has no affine" if isinstance(module, BatchNorm) else "its weight is computed, not stored"
        tensors = [weight, *([parameters[f"{name}.bias"]] if f"{name}.bias" in parameters else [])]
        if any(sum(one is tensor for one in parameters.values()) > 1 for tensor in tensors):
            return "its weight is shared with another layer"
        return None


def _is_layer(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | _Conv) or is_transposed_linear(module)


def is_transposed_linear(module: nn.Module) -> bool:
    """Whether it is the linear layer of GPT-2 in transformers, whose weight is (in, out)."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _is_same(tensor: Tensor, version: int, given: Tensor) -> bool:
    """Whether a tensor came on unchanged, not even in place."""
    return (
        tensor.untyped_storage().data_ptr() == given.untyped_storage().data_ptr()
        and given._version == version
        and tensor.shape == given.shape
    )


def channel_dim(module: nn.Module, values: Tensor) -> int:
    """Which dimension of what a layer takes or gives counts its channels."""
    if isinstance(module, _Conv):
        return values.ndim - len(module.kernel_size) - 1
    return 1 if isinstance(module, BatchNorm) else values.ndim - 1


def by_channel(module: nn.Module, values: Tensor) -> Tensor:
    """Values as (samples, channels)."""
    return values.movedim(channel_dim(module, values), -1).flatten(0, -2)


def scaled(weight: Tensor, scale: Tensor, module: nn.Module) -> Tensor:
    """A weight that gives each output channel times a factor."""
    wide = weight.to(scale)
    if is_transposed_linear(module):
        return wide * scale
    if isinstance(module, nn.modules.conv._ConvTransposeNd):  # (in, out / groups, ...): each group of inputs has its own outputs
        per_group = scale.view(module.groups, 1, -1, *[1] * (wide.ndim - 2))
        return (wide.view(module.groups, -1, *wide.shape[1:]) * per_group).view(wide.shape)
    return wide * scale.view(-1, *[1] * (wide.ndim - 1))
