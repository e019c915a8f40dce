"""A chain: a network as parts in a row with a cut between each two, which runs from any cut to any other."""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task
from weightspace.tracing.cutting import Cut, cut

INPUT = "input"
"""The name of the place before the first part: the raw input, for controls."""


class Chain(nn.Module):
    """A network as parts in a row.

    Attributes:
        parts: in order; the first takes the inputs, each other one what the part before it gave, and those inputs that it `needs`.
        cuts: between the parts, one fewer than these.
        needs: for each part, which of the inputs it takes.
        inputs: names of the inputs.
    """

    def __init__(self, parts: Sequence[nn.Module], cuts: Sequence[Cut], needs: Sequence[Sequence[int]], inputs: Sequence[str]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.cuts, self.needs, self.inputs = tuple(cuts), tuple(map(tuple, needs)), tuple(inputs)

    @classmethod
    def of(cls, module: nn.Module, *example_inputs: Any, **kwargs: Any) -> "Chain":
        """Cut a module wherever one group of neurons alone crosses; see `weightspace.tracing.cutting.cut`.

        Args:
            module: read in eval mode; the chain has copies of its parameters and buffers.
            example_inputs: inputs on which it runs, examples along the first dimension.
            kwargs: inputs by keyword.

        Raises:
            SymmetryError: the module cannot be traced, or runs on one size of a batch alone.
            AnalysisError: there is nowhere to cut it.
        """
        found = cut(module, *example_inputs, **kwargs)
        if not found.cuts:
            raise AnalysisError(
                f"module {type(module).__name__} falls apart nowhere: at no place does one group of neurons alone cross; "
                "give its parts yourself, as a list of blocks"
            )
        return cls(found.modules, found.cuts, found.needs, found.inputs)

    @classmethod
    def of_blocks(cls, blocks: Mapping[str, nn.Module], *example_inputs: Any, axes: Mapping[str, int] | None = None) -> "Chain":
        """Take blocks that a user gives, each called with what the one before it gave, the first with the inputs.

        Args:
            blocks: by name, in order; used as they are, not copied.
            example_inputs: inputs on which they run, examples along the first dimension.
            axes: for blocks named here, which dimension of what one example gives counts neurons; by default the last, and of maps (three
                dimensions) the first.

        Raises:
            AnalysisError: there is one block only, or one gives no tensor of floats.
        """
        names = list(blocks)
        if len(names) < 2:
            raise AnalysisError(
                f"expected two blocks or more, found {len(names)}; give the network in parts, in the order in which they run"
            )
        cuts, value = [], None
        for at, (name, block) in enumerate(blocks.items()):
            with torch.no_grad(), in_eval(block):
                value = block(*example_inputs) if at == 0 else block(value)
            if at < len(names) - 1:
                cuts.append(_cut_behind(name, value, (axes or {}).get(name)))
        needs: list[Sequence[int]] = [tuple(range(len(example_inputs))), *([()] * (len(names) - 1))]
        return cls(list(blocks.values()), cuts, needs, [f"input{at}" for at in range(len(example_inputs))])

    def index(self, name: str | int) -> int:
        """Which cut has a name, -1 for `input`; numbers are taken as they are.

        Raises:
            UnknownNameError: none has it.
            AnalysisError: there are fewer cuts.
        """
        if isinstance(name, int):
            if not -1 <= name < len(self.cuts):
                raise AnalysisError(f"expected a cut from -1 (the input) to {len(self.cuts) - 1}, found {name}; name one that there is")
            return name
        names = [INPUT, *(one.name for one in self.cuts)]
        if name not in names:
            raise UnknownNameError.of("cut", name, names)
        return names.index(name) - 1

    def forward(self, *inputs: Any, **kwargs: Any) -> Any:
        """Run the whole network; what it gives is a tensor, or a tuple of those that it gives."""
        return self.run((*inputs, *self.ordered(kwargs)))

    def ordered(self, keywords: Mapping[str, Any]) -> tuple[Any, ...]:
        """Inputs by keyword in the order of the network's inputs; those that it does not take are left out, as targets are."""
        return tuple(keywords[name] for name in self.inputs if name in keywords)

    def run(self, inputs: Sequence[Any], features: Tensor | None = None, *, start: int = -1, stop: int | None = None) -> Any:
        """Run from behind one cut up to another.

        Args:
            inputs: of the whole network; parts behind a cut take of them only what says nothing but masks and positions.
            features: what crosses at `start`; not given for -1.
            start: index of the cut behind which to begin; -1 is the input.
            stop: index of the cut to run up to; by default to the end.

        Returns:
            What crosses at `stop`, or what the network gives.
        """
        last = len(self.parts) if stop is None else stop + 1
        value: Any = features
        for at in range(start + 1, last):
            given = [inputs[which] for which in self.needs[at]]
            value = self.parts[at](*given) if at == 0 else self.parts[at](value, *given)
        if stop is None and isinstance(value, tuple | list):
            return value[0] if len(value) == 1 else tuple(value)
        return value

    def weights(self) -> dict[str, Tensor]:
        """Parameters and buffers by the names that they have in the module, as far as it runs through them."""
        return {name: tensor.detach() for part in self.parts for name, tensor in part.state_dict().items()}

    def task(self, task: Task) -> Task:
        """What a task asks of the module, asked of the chain: its parts are `parts.0` and so on."""
        return replace(task, module=self)


def chain_of(task: Task) -> Chain:
    """Cut the module of a task, on the first of its batches; see `Chain.of`."""
    from weightspace.task import batch_inputs

    args, kwargs = batch_inputs(next(iter(task.batches)))
    return Chain.of(task.module, *args, **kwargs)


def _cut_behind(name: str, value: Any, axis: int | None) -> Cut:
    if not isinstance(value, Tensor) or value.ndim < 2 or not value.is_floating_point():
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise AnalysisError(f"block '{name}' gives {found}, expected one tensor of floats with examples first; cut elsewhere")
    shape = tuple(value.shape[1:])
    return Cut(name, shape, (axis if axis is not None else 0 if len(shape) == 3 else len(shape) - 1) % len(shape), name)


@contextmanager
def in_eval(*modules: nn.Module) -> Iterator[None]:
    """Modules in eval mode for a while: looking at a network changes no running statistics, and drops nothing out."""
    training = [one for module in modules for one in module.modules() if one.training]
    try:
        for module in modules:
            module.eval()
        yield
    finally:
        for one in training:
            one.training = True


def sequential(module: nn.Sequential) -> "OrderedDict[str, nn.Module]":
    """The parts of a sequential module by name, as `Chain.of_blocks` takes them."""
    return OrderedDict(module.named_children())


__all__ = ["INPUT", "Chain", "chain_of", "in_eval", "sequential"]
