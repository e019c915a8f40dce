"""Where a network shows its neuron groups: the submodules whose outputs, or inputs, count the members of a group as channels."""

from dataclasses import dataclass

from torch import Tensor, nn

from weightspace.axes import Axis, leaves
from weightspace.modules import tensors_of
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict

_NORMS_OF_DIM_ONE = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.PReLU)
_CONV = nn.modules.conv._ConvNd


@dataclass(frozen=True)
class Channels:
    """The channels of what a submodule gives, or takes.

    Attributes:
        module: name of the submodule.
        axis: what indexes them, in the words of the spec.
        dim: which dimension they are.
        of_input: whether of what it takes.
    """

    module: str
    axis: Axis
    dim: int
    of_input: bool

    @property
    def groups(self) -> frozenset[str]:
        """The groups that they show."""
        return frozenset(leaf.group for leaf in leaves(self.axis))

    def last(self, given: Tensor, made: Tensor) -> Tensor:
        """Values as (samples, channels), from what the submodule takes and gives."""
        return (given if self.of_input else made).movedim(self.dim, -1).flatten(0, -2)


def channels_of(module: nn.Module, spec: SymmetrySpec, state_dict: StateDict, *, of_input: bool = False) -> tuple[Channels, ...]:
    """Find the channels of every submodule that has a weight or a bias of its own and no submodules, by the axes of these.

    Args:
        module: what computes.
        spec: of its tensors.
        state_dict: under whose names the spec knows them.
        of_input: the channels of what submodules take, after the nonlinearity, in place of what they give, before it.

    Raises:
        TaskError: the state dict does not fit the module.
    """
    named = tensors_of(module, state_dict)
    owners = {id(tensor): name for name, tensor in module.state_dict(keep_vars=True).items() if name in named}
    found: list[Channels] = []
    for name, part in module.named_modules():
        if next(part.children(), None) is not None:
            continue
        own = {key: owners.get(id(tensor)) for key, tensor in part.named_parameters(recurse=False)}
        axes = {key: spec.axes(named[owner]) for key, owner in own.items() if owner is not None}
        axis = _axis(part, axes.get("weight", ()), axes.get("bias", ()), of_input)
        if axis is not None:
            found.append(Channels(name, axis, _dim(part), of_input))
    return tuple(found)


def _axis(part: nn.Module, weight: tuple[Axis, ...], bias: tuple[Axis, ...], of_input: bool) -> Axis | None:
    """The axis of a weight or a bias that counts the channels, if any does."""
    turned = getattr(part, "transposed", False) or type(part).__name__ == "Conv1D"  # of GPT-2 in transformers, whose weight is (in, out)
    single = getattr(part, "groups", 1) == 1
    if len(weight) == 1:
        return weight[0]
    if not of_input and len(bias) == 1:
        return bias[0]
    if len(weight) < 2 or (of_input and isinstance(part, nn.Embedding)):
        return None
    if of_input:
        return weight[0] if turned else weight[1] if single else None
    if isinstance(part, nn.Embedding) or turned:
        return weight[1] if single else None
    return weight[0]


def _dim(part: nn.Module) -> int:
    if isinstance(part, _CONV):
        return -len(part.kernel_size) - 1
    return 1 if isinstance(part, _NORMS_OF_DIM_ONE) else -1
