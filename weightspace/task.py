"""A task: a module, batches, a loss and metrics, on which any state dict of that module is evaluated."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from weightspace.checkpoint import Checkpoint
from weightspace.errors import ShapeMismatchError, TaskError, UnknownNameError, WeightSpaceError, one_line
from weightspace.modules import Part, module_for, module_of, population_recipe, shared_copy, task_builders, tensors_of
from weightspace.symmetry import StateDict

Batch = Any
"""What the loss is computed on at once: `(input, ..., target)`, a mapping of keyword arguments, or a lone input."""

Hook = Callable[[Tensor, Tensor], Tensor | None]
"""Sees the input and the output of a submodule; what it returns, unless None, takes the output's place."""


def call(module: nn.Module, batch: Batch) -> Any:
    """Call a module on a batch: all but the last of a tuple or list, the keywords of a mapping, or the lone input."""
    args, kwargs = batch_inputs(batch)
    return module(*args, **kwargs)


def batch_inputs(batch: Batch) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What `call` gives a module of a batch: positional inputs, and inputs by keyword."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    if isinstance(batch, tuple | list):
        return tuple(batch[:-1] if len(batch) > 1 else batch), {}
    return (batch,), {}


def batch_size(batch: Batch) -> float:
    """Count the examples of a batch: the first dimension of its first tensor.

    Raises:
        TaskError: there is no tensor with a dimension in it.
    """
    sizes = (float(tensor.shape[0]) for tensor in tensors_in(batch) if tensor.ndim)
    size = next(sizes, None)
    if size is None:
        raise TaskError(
            f"a batch of type {type(batch).__name__} holds no tensor with a dimension; give the task `weight`, a function of the batch"
        )
    return size


def logits_of(outputs: Any) -> Tensor:
    """Take the logits out of what a module returned: the tensor itself, or its attribute `logits`.

    Raises:
        TaskError: it is neither.
    """
    logits: Tensor = getattr(outputs, "logits", outputs)
    if not isinstance(logits, Tensor) or not logits.is_floating_point():
        raise TaskError(
            f"expected logits, found outputs of type {type(outputs).__name__}; give the task a `forward` that returns the logits"
        )
    return logits


@dataclass(frozen=True, eq=False)
class Task:
    """A module with what its weights are judged by; the module itself is never changed.

    Everything runs with the module in eval mode, on its device and in its dtypes: state dicts and batches follow it. A state dict must have
    every tensor of the module; wrapper prefixes such as `module.` make no difference.

    Attributes:
        module: any module; weights are swapped in as by `torch.func.functional_call`.
        batches: `(input, target)`, mappings, or anything that `forward` takes; iterated anew at every evaluation.
        loss: a function of (outputs, batch), a scalar: the mean over the batch.
        metrics: functions like the loss, by name.
        forward: what is done with the module and a batch.
        weight: what a batch counts in a mean over batches.

    Raises:
        TaskError: the batches can be iterated over only once.

    Example:
        >>> module = nn.Linear(2, 2, bias=False)
        >>> task = Task.classification(module, torch.eye(2), torch.tensor([0, 1]))
        >>> task.evaluate({"weight": torch.eye(2)})["accuracy"]
        1.0
    """

    module: nn.Module
    batches: Iterable[Batch] = field(repr=False)
    loss: Callable[[Any, Batch], Tensor]
    metrics: Mapping[str, Callable[[Any, Batch], Tensor | float]] = field(default_factory=dict)
    forward: Callable[[nn.Module, Batch], Any] = call
    weight: Callable[[Batch], float] = batch_size

    def __post_init__(self) -> None:
        if iter(self.batches) is self.batches:
            raise TaskError(
                f"batches is a {type(self.batches).__name__}, which can be iterated over only once, and every evaluation needs them again; "
                "give a list or a DataLoader"
            )
        if "loss" in self.metrics:
            raise TaskError("a metric is named 'loss', which is the name of the loss itself; name it otherwise")

    @classmethod
    def classification(cls, module: nn.Module, inputs: Tensor, targets: Int[Tensor, "examples *rest"], *, batch_size: int = 1024) -> "Task":
        """Judge by cross entropy and accuracy; the module returns logits with the classes last.

        Args:
            module: any module of one input.
            inputs: (examples, ...).
            targets: classes; of further dimensions where there are logits for each position. -100 means none.
            batch_size: examples at once.

        Raises:
            ShapeMismatchError: there are not as many inputs as targets.
        """
        if len(inputs) != len(targets):
            raise ShapeMismatchError(f"{len(inputs)} inputs but {len(targets)} targets; give one target for each input")
        batches = list(zip(torch.split(inputs, batch_size), torch.split(targets, batch_size), strict=True))
        return cls(module, batches, cross_entropy, {"accuracy": accuracy})

    @property
    def device(self) -> torch.device:
        """The device of the module."""
        return next((tensor.device for tensor in self._tensors), torch.device("cpu"))

    def evaluate(self, state_dict: StateDict) -> dict[str, float]:
        """Measure loss and metrics of a state dict: means over the batches, weighted by their sizes.

        Raises:
            TaskError: the state dict does not fit, there are no batches, or loss or metric is no number.
        """
        return self._measured(self.run(state_dict))

    def evaluate_many(
        self, stacked: Mapping[str, Tensor], whole: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = dict
    ) -> list[dict[str, float]]:
        """Measure several networks, run side by side where the module and its outputs allow; else it is one after the other.

        Args:
            stacked: (networks, *shape) by tensor name.
            whole: adds to the tensors of one network what all have alike.

        Raises:
            TaskError: see `evaluate`.
        """
        rows = [{name: tensor[at] for name, tensor in stacked.items()} for at in range(len(next(iter(stacked.values()))))]
        try:
            run = torch.vmap(lambda own, batch: self.outputs_of(whole(own), batch), (0, None))
            with torch.no_grad():
                made = [(batch, run(dict(stacked), batch)) for batch in (moved(one, self.device) for one in self.batches)]
        except (RuntimeError, TypeError, ValueError):  # its flow depends on values, or an operation or an output has no batched form
            made = []
        if not made or not all(isinstance(outputs, Tensor) for _, outputs in made):
            return [self.evaluate(whole(row)) for row in rows]
        return [self._measured((batch, outputs[at]) for batch, outputs in made) for at in range(len(rows))]

    def _measured(self, made: Iterable[tuple[Batch, Any]]) -> dict[str, float]:
        """Loss and metrics of what a network returned for each batch."""
        totals, weights = dict.fromkeys(["loss", *self.metrics], 0.0), 0.0
        for batch, outputs in made:
            weight = self.weight(batch)
            for name, measure in {"loss": self.loss, **self.metrics}.items():
                totals[name] += weight * _number(name, measure(outputs, batch))
            weights += weight
        return {name: total / weights if weights else math.nan for name, total in totals.items()}

    def outputs(self, state_dict: StateDict) -> Iterator[Any]:
        """Iterate over what the module returns for each batch."""
        return (outputs for _, outputs in self.run(state_dict))

    def activations(
        self, state_dict: StateDict, names: Sequence[str], of: Literal["input", "output"] = "output"
    ) -> Iterator[dict[str, Tensor]]:
        """Iterate over what submodules take or give in each batch, one batch in memory at a time.

        Where a submodule is called several times for a batch, its tensors are joined along the first dimension.

        Raises:
            UnknownNameError: the module has no such submodule.
            TaskError: a submodule is not called, or not with tensors.
        """
        seen: dict[str, list[Tensor]] = {name: [] for name in names}

        def watch(name: str) -> Hook:
            # A copy, since what follows may write over it in place.
            return lambda given, made: seen[name].append((given if of == "input" else made).clone())

        for _ in self.run(state_dict, {name: watch(name) for name in names}):
            idle = [name for name in names if not seen[name]]
            if idle:
                raise TaskError(f"submodule '{idle[0]}' is not called when the module runs; name one that is")
            taken = {name: tensors[0] if len(tensors) == 1 else torch.cat(tensors) for name, tensors in seen.items()}
            for tensors in seen.values():
                tensors.clear()
            yield taken

    def run(self, state_dict: StateDict, hooks: Mapping[str, Hook] = {}, *, batch_statistics: bool = False) -> Iterator[tuple[Batch, Any]]:
        """Iterate over batches (moved to the module's device) and what the module returns, without gradients.

        Args:
            state_dict: the weights.
            hooks: functions of (input, output) by name of submodule; of tuples they see the first tensor, and what they return replaces it.
            batch_statistics: whether batch norms use the statistics of each batch; running ones are not updated.

        Raises:
            UnknownNameError: the module has no submodule of that name.
            TaskError: the state dict does not fit, or there are no batches.
        """
        runner = self._runner(batch_statistics)
        tensors = self._fitted(state_dict)
        watched = [(_submodule(runner.module, name), hook) for name, hook in hooks.items()]
        empty = True
        for batch in self.batches:
            empty = False
            batch = moved(batch, self.device)
            # Hooks live for one batch only, so that two iterations over one task do not meet.
            handles = [module.register_forward_hook(_tensor_hook(hook), with_kwargs=True) for module, hook in watched]
            try:
                with torch.no_grad(), _explained():
                    outputs = torch.func.functional_call(runner, tensors, (batch,))
            finally:
                for handle in handles:
                    handle.remove()
            yield batch, outputs
        if empty:
            raise TaskError("the task has no batches, and needs at least one to evaluate on; give it data")

    def loss_of(self, state_dict: StateDict, batch: Batch, *, batch_statistics: bool = False) -> Float[Tensor, ""]:
        """Compute the loss of one batch, differentiable in the parameters that the state dict gives; buffers get no gradient.

        Args:
            state_dict: the weights.
            batch: one of the task's, or like them.
            batch_statistics: whether batch norms use the statistics of the batch; running ones are not updated.
        """
        batch = moved(batch, self.device)
        loss: Tensor = self.loss(self.outputs_of(state_dict, batch, batch_statistics=batch_statistics), batch)
        return loss

    def outputs_of(self, state_dict: StateDict, batch: Batch, *, batch_statistics: bool = False) -> Any:
        """What the module returns for one batch, differentiable like `loss_of`."""
        with _explained():
            return torch.func.functional_call(self._runner(batch_statistics), self._fitted(state_dict), (moved(batch, self.device),))

    def _runner(self, batch_statistics: bool) -> "_Runner":
        return self._with_batch_statistics if batch_statistics else self._in_eval_mode

    @cached_property
    def _in_eval_mode(self) -> "_Runner":
        return _Runner(shared_copy(self.module).eval(), self.forward)

    @cached_property
    def _with_batch_statistics(self) -> "_Runner":
        runner = _Runner(shared_copy(self.module).eval(), self.forward)
        for module in runner.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.training, module.track_running_stats = True, False
        return runner

    @property
    def _tensors(self) -> Iterator[Tensor]:
        yield from self.module.parameters()
        yield from self.module.buffers()

    def _fitted(self, state_dict: StateDict) -> dict[str, Tensor]:
        """A state dict as the runner takes it; buffers outside it come from the module, wherever that has moved to."""
        if isinstance(state_dict, Checkpoint):
            state_dict = state_dict.state_dict()  # each tensor read once
        named = tensors_of(self.module, state_dict)
        own = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
        fitted = {name: state_dict[named[name]].to(tensor) if name in named else tensor for name, tensor in own.items()}
        # torch refuses statistics that want a gradient
        return {f"module.{name}": tensor if isinstance(own[name], nn.Parameter) else tensor.detach() for name, tensor in fitted.items()}


def cross_entropy(outputs: Any, batch: Batch) -> Float[Tensor, ""]:
    """Mean cross entropy of logits (classes last) against the last part of the batch."""
    return nn.functional.cross_entropy(logits_of(outputs).flatten(0, -2), batch[-1].flatten())


def accuracy(outputs: Any, batch: Batch) -> Float[Tensor, ""]:
    """Share of the targets, the last part of the batch, that have the largest logit."""
    targets = batch[-1]
    hits: Tensor = logits_of(outputs).argmax(-1) == targets
    return hits[targets != -100].double().mean()


class _Runner(nn.Module):
    """What `forward` does to a module, as a module: so the function may call any part of it, with weights swapped in."""

    def __init__(self, module: nn.Module, function: Callable[[nn.Module, Batch], Any]) -> None:
        super().__init__()
        self.module, self.function = module, function
        self.training = module.training

    def forward(self, batch: Batch) -> Any:
        return self.function(self.module, batch)


def _tensor_hook(hook: Hook) -> Callable[..., Any]:
    """A forward hook for a function of tensors: of what is taken or given, the first tensor."""

    def on_call(module: nn.Module, args: tuple[Any, ...], keywords: Mapping[str, Any], outputs: Any) -> Any:
        given = next(tensors_in([args, keywords]), None)
        made = next(tensors_in(outputs), None)
        if given is None or made is None:
            raise TaskError(
                f"a submodule of type {type(module).__name__} takes or gives no tensor, which cannot be watched; name one that does"
            )
        changed = hook(given, made)
        if changed is None or outputs is made:
            return changed
        if isinstance(outputs, tuple) and outputs[0] is made:
            return (changed, *outputs[1:])
        raise TaskError(
            f"a submodule of type {type(module).__name__} returns a {type(outputs).__name__}, in which no tensor can be replaced; name one inside it"
        )

    return on_call


@contextmanager
def _explained() -> Iterator[None]:
    """Say what torch says of a batch of one example in terms of the task."""
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        message = "a batch of one example has no statistics, which batch norms need here; use larger batches, or drop the last one"
        raise TaskError(message) from error


def _submodule(module: nn.Module, name: str) -> nn.Module:
    found = dict(module.named_modules(remove_duplicate=False))
    if name not in found:
        raise UnknownNameError.of("submodule", name, filter(None, found))
    module_found: nn.Module = found[name]
    return module_found


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Iterate over the tensors in nested mappings, tuples and lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping | tuple | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(part)


def moved(value: Any, device: torch.device) -> Any:
    """The same nested mappings, tuples and lists with their tensors on a device."""
    return _mapped(value, lambda tensor: tensor.to(device))


def taken(value: Any, rows: Tensor) -> Any:
    """The same nested mappings, tuples and lists with only some examples of their tensors; rows are numbers of these."""
    return _mapped(value, lambda tensor: tensor[rows.to(tensor.device)] if tensor.ndim else tensor)


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nested mappings, tuples and lists with other tensors in them."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, Mapping):
        return {name: _mapped(part, change) for name, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [_mapped(part, change) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if isinstance(value, int | float):
        return float(value)
    found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise TaskError(f"'{name}' returned {found}, expected one number; return the mean over the batch")


def numbers_of(found: Any) -> dict[str, float]:
    """What a function of a state dict returned, as numbers by name; a lone one is the loss.

    Raises:
        TaskError: it is something else.
    """
    given = found if isinstance(found, Mapping) else {"loss": found}
    try:
        return {str(name): float(value) for name, value in given.items()}
    except (TypeError, ValueError):
        said = ", ".join(f"{name}: {type(value).__name__}" for name, value in given.items())
        raise TaskError(f"the evaluation returned {said}; expected a number, or numbers by name") from None


def halves(task: Task) -> tuple[Task, Task]:
    """Cut a task in two, every other example in each: one to choose by, one to judge by.

    Raises:
        TaskError: a batch has one example alone.
    """
    batches = list(task.batches)
    if any(len(tensor) < 2 for batch in batches for tensor in tensors_in(batch) if tensor.ndim):
        raise TaskError("a batch has one example alone and cannot be halved; give the task larger batches")
    first, second = ([_mapped(batch, partial(_every_other, at=at)) for batch in batches] for at in (0, 1))
    return replace(task, batches=first), replace(task, batches=second)


def _every_other(tensor: Tensor, at: int) -> Tensor:
    return tensor[at::2] if tensor.ndim else tensor


def task_for(checkpoint: Checkpoint, part: Part = "test") -> Task:
    """Build the task of the population that a checkpoint comes from, with the checkpoint's own module.

    Args:
        checkpoint: made by a population, or generated like those.
        part: the examples that training saw, or those that it did not see.

    Raises:
        TaskError: it comes from no population that has one.
    """
    return _built(population_recipe(checkpoint), part, lambda recipe: module_for(checkpoint))


def task_like(recipe: Mapping[str, Any], part: Part = "test") -> Task:
    """Build the task of networks like one that a population made, with a module that is not trained.

    Args:
        recipe: of such a network.
        part: see `task_for`.

    Raises:
        TaskError: the recipe is of no population that has one.
    """
    return _built(recipe, part, module_of)


def task_through(task: Task, checkpoint: Checkpoint, *, is_own: bool = False) -> Task:
    """The same batches and loss with the module that a checkpoint is of: the task's where it fits, else the checkpoint's own.

    Args:
        task: left as it is; returned itself where its module is the one.
        checkpoint: whose module is built as `module_for` does it.
        is_own: take the checkpoint's own even where the task's fits, unless the two are the same.

    Raises:
        TaskError: the task's does not fit and no other is known, or the checkpoint's own does not run on the batches.
        ShapeMismatchError: likewise, where it does not fit by a shape.
    """
    misfit: TaskError | ShapeMismatchError | None = None
    try:
        tensors_of(task.module, checkpoint)
        if not is_own:
            return task
    except (TaskError, ShapeMismatchError) as error:
        misfit = error
    try:
        module = module_for(checkpoint, load=False).to(task.device)
    except TaskError:
        if misfit is None:
            return task
        raise misfit from None
    if misfit is None and _is_same(module, task.module):
        return task
    made = replace(task, module=module)
    try:
        next(made.outputs(checkpoint))
    except WeightSpaceError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        said = one_line(str(error), 120)
        raise TaskError(
            f"{type(module).__name__}, the model's own module, does not run on the batches of the task ({said}); compare models of one data set"
        ) from error
    return made


def _is_same(module: nn.Module, other: nn.Module) -> bool:
    """Whether two modules of the same weights compute the same: they print alike, and what they hold and do not save is equal."""
    saved = module.state_dict()
    held, others = ({name: tensor for name, tensor in one.named_buffers() if name not in saved} for one in (module, other))
    is_alike = repr(module) == repr(other) and held.keys() == others.keys()
    return is_alike and all(torch.equal(tensor.to(others[name]), others[name]) for name, tensor in held.items())


def _built(recipe: Mapping[str, Any], part: Part, module: Callable[[Mapping[str, Any]], nn.Module]) -> Task:
    name = recipe.get("name")
    if not isinstance(name, str) or name not in task_builders:
        known = ", ".join(task_builders)
        raise TaskError(
            f"nothing is known to judge this model by (only the populations {known} say so themselves); name a function with --eval module:function"
        )
    return task_builders[name](module(recipe), recipe, part)
