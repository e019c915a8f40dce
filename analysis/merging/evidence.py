"""What data say of the weights of one model: evidence that some merge methods ask for, as state dicts that can be saved beside it."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from weightspace.analysis.merging.method import Slab
from weightspace.errors import MergeError, TaskError, UnknownNameError
from weightspace.modules import tensors_of
from weightspace.symmetry import StateDict
from weightspace.task import Batch, Task, batch_size, logits_of

Labels = Literal["expected", "sampled", "empirical"]

_AT_ONCE = 1 << 25  # elements of gradients, or of unfolded patches, that are in memory at once: 128 MiB of float32


def evidence_of(slab: Slab, name: str) -> tuple[Tensor, ...] | None:
    """What is known of each input under a name; None where nothing is known of this tensor.

    Raises:
        MergeError: it is known of some inputs only.
    """
    found = slab.evidence.get(name) or ()
    known = tuple(one for one in found if one is not None)
    if known and len(known) < len(slab.tensors):
        raise MergeError(
            f"tensor '{slab.name}' has the evidence '{name}' in {len(known)} of {len(slab.tensors)} models; compute it for all of them, or none"
        )
    return known or None


def fisher(
    task: Task,
    state_dict: StateDict,
    *,
    labels: Labels = "expected",
    generator: torch.Generator | None = None,
    examples: int | None = None,
    chunk: int | None = None,
) -> dict[str, Tensor]:
    """Diagonal of the Fisher information of each parameter: the mean over examples of squared gradients of `log p(y | x)`.

    Gradients are of single examples and, for `expected`, single classes, squared before anything is summed; so the answer does not depend
    on how the data are batched. Outputs are logits with the classes last; where there are logits for each of several positions, each is
    a prediction of its own, and their Fishers add up. Batch norms use their running statistics, as always in a task.

    Args:
        task: whose batches are the data.
        state_dict: the weights.
        labels: what `y` is. `expected`: every class, weighted by its probability in the model; exact, one backward pass for each class.
            `sampled`: one class drawn from the model's probabilities. `empirical`: the targets, through the task's own loss of one
            example, whatever the loss is; cheaper, but no Fisher: it is large where the model is wrong.
        generator: that draws the samples.
        examples: how many to use, the first ones; all if None.
        chunk: examples at once; by memory if None. With 1 nothing is vectorised, for modules that `torch.func.vmap` cannot run.

    Returns:
        One float32 tensor for each parameter, by the state dict's names; buffers have none.

    Raises:
        TaskError: no data, or labels are to be sampled without a generator.
    """
    if labels == "sampled" and generator is None:
        raise TaskError("labels are to be sampled, and there is no generator to draw them from; give a torch.Generator")
    trained = _parameters(task, state_dict)
    totals = {name: torch.zeros_like(tensor, dtype=torch.float64) for name, tensor in trained.items()}
    at_once = chunk or max(1, _AT_ONCE // max(1, sum(tensor.numel() for tensor in trained.values())))
    count = 0
    for batch in task.batches:
        size = int(batch_size(batch))
        size = size if examples is None else min(size, examples - count)
        drawn = _drawn(task, state_dict, batch, size, generator) if labels == "sampled" else torch.zeros(size, 1)
        squares = _squares(task, state_dict, trained, batch, labels)
        for numbers in torch.split(torch.arange(size), at_once):
            with sdpa_kernel(SDPBackend.MATH):  # vmap would run the fused kernels of attention one example at a time
                made = torch.func.vmap(squares)(numbers, drawn[numbers]) if at_once > 1 else _one_by_one(squares, numbers, drawn)
            for name, total in totals.items():
                total.add_(made[name].sum(0, dtype=torch.float64))
        count += size
        if count == examples:
            break
    if not count:
        raise TaskError("the task has no batches, and a Fisher needs data; give it some")
    return {name: (total / count).float() for name, total in totals.items()}


def _squares(
    task: Task, state_dict: StateDict, trained: dict[str, Tensor], batch: Batch, labels: Labels
) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
    """The squared gradients of one example of a batch, as a function of its number and of uniform draws for its positions."""

    def of_targets(number: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        loss = lambda parameters: task.loss_of({**state_dict, **parameters}, _picked(batch, number))  # noqa: E731
        return {name: one.square() for name, one in torch.func.grad(loss)(trained).items()}

    def of_the_model(number: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        def log_probabilities(parameters: dict[str, Tensor]) -> Tensor:
            return logits_of(task.outputs_of({**state_dict, **parameters}, _picked(batch, number))).flatten(0, -2).log_softmax(-1)

        found, pull, *_ = torch.func.vjp(log_probabilities, trained)
        shares = found.exp()
        if labels == "sampled":
            below = (shares.cumsum(-1) < drawn[:, None].to(shares) * shares.sum(-1, keepdim=True)).sum(-1)
            chosen = functional.one_hot(below.clamp(max=shares.shape[-1] - 1), shares.shape[-1])
            return {name: one.square() for name, one in pull(chosen.to(found))[0].items()}
        total = {name: torch.zeros_like(tensor) for name, tensor in trained.items()}
        for place in itertools.product(range(found.shape[0]), range(found.shape[1])):
            only = torch.zeros_like(found)
            only[place] = 1
            total = {name: total[name] + shares[place] * one.square() for name, one in pull(only)[0].items()}
        return total

    return of_targets if labels == "empirical" else of_the_model


def _one_by_one(squares: Callable[[Tensor, Tensor], dict[str, Tensor]], numbers: Tensor, drawn: Tensor) -> dict[str, Tensor]:
    made = [squares(number, drawn[number]) for number in numbers]
    return {name: torch.stack([one[name] for one in made]) for name in made[0]}


def _drawn(task: Task, state_dict: StateDict, batch: Batch, size: int, generator: torch.Generator | None) -> Tensor:
    """Uniform numbers, one for each example and position."""
    with torch.no_grad():
        positions = logits_of(task.outputs_of(state_dict, _picked(batch, torch.tensor(0))))[..., 0].numel()
    return torch.rand(size, positions, generator=generator, dtype=torch.float64).float()


def _picked(value: Any, number: Tensor) -> Any:
    """A batch of one example, out of a batch; a number rather than a slice, so that vmap can vary it."""
    if isinstance(value, Tensor):
        return value.index_select(0, number.to(value.device).view(1)) if value.ndim else value
    if isinstance(value, Mapping):
        return {name: _picked(part, number) for name, part in value.items()}
    if isinstance(value, tuple | list):
        parts = [_picked(part, number) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


def _parameters(task: Task, state_dict: StateDict) -> dict[str, Tensor]:
    """The parameters of the module as the state dict has them, on the module's device and in its dtype."""
    names = tensors_of(task.module, state_dict)
    return {names[name]: state_dict[names[name]].detach().to(one) for name, one in task.module.named_parameters() if name in names}


def gram(task: Task, state_dict: StateDict, layers: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Gram matrix `X^T X / n` of the inputs of linear layers and convolutions, one row of X for each example and position.

    Convolutions are linear layers of unfolded patches (channels, then places in the kernel, as their weights are stored). Layers without
    an input matrix of their own get none: grouped and transposed convolutions, those of three dimensions, layers that are not called as
    modules. Sums are in float64, one batch at a time; a matrix is as wide as the layer has inputs.

    Args:
        task: whose batches are the data.
        state_dict: the weights.
        layers: names of submodules; if None, all that have a Gram matrix.

    Returns:
        By the state dict's name of each layer's *weight*: (inputs, inputs); and (1, inputs, inputs) for the transposed layers of transformers
        (`Conv1D`), whose weights are stored input first. float32.

    Raises:
        UnknownNameError: no such submodule.
        TaskError: a layer that was named has no Gram matrix.
    """
    modules = dict(task.module.named_modules())
    for name in layers or ():
        if name not in modules:
            raise UnknownNameError.of("submodule", name, filter(None, modules))
        if _rows_of(modules[name]) is None:
            raise TaskError(
                f"layer '{name}' is a {type(modules[name]).__name__}, which has no Gram matrix; name a linear layer or a convolution"
            )
    names = tensors_of(task.module, state_dict)
    weights = {name: names.get(f"{name}.weight".removeprefix("."), "") for name in modules}
    wanted = {name: rows for name in (layers or modules) if (rows := _rows_of(modules[name])) and weights[name]}
    sums: dict[str, tuple[Tensor, int]] = {}

    def watch(name: str, rows: Callable[[Tensor], Iterator[Tensor]]) -> Callable[[Tensor, Tensor], None]:
        def see(given: Tensor, made: Tensor) -> None:
            for block in rows(given):
                exact = block.double()
                total, count = sums.get(name, (exact.new_zeros(exact.shape[1], exact.shape[1]), 0))
                sums[name] = (total.addmm_(exact.T, exact), count + len(exact))

        return see

    for _ in task.run(state_dict, {name: watch(name, rows) for name, rows in wanted.items()}):
        pass
    idle = [name for name in layers or () if name not in sums]
    if idle:
        raise TaskError(f"layer '{idle[0]}' is not called when the module runs, so it has no Gram matrix; leave it out")
    means = {name: (total / count).float() for name, (total, count) in sums.items()}
    return {weights[name]: one[None] if _is_transposed(modules[name]) else one for name, one in means.items()}


def _is_transposed(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D"  # of transformers, which need not be installed


def _rows_of(module: nn.Module) -> Callable[[Tensor], Iterator[Tensor]] | None:
    """How a layer's input becomes rows, a block at a time; None for layers that have no matrix."""
    if isinstance(module, nn.Linear) or _is_transposed(module):
        return lambda given: iter([given.flatten(0, -2)])
    if type(module) in (nn.Conv1d, nn.Conv2d) and module.groups == 1:
        return lambda given: _patches(module, given)  # type: ignore[arg-type]
    return None


def _patches(layer: nn.Conv1d | nn.Conv2d, given: Tensor) -> Iterator[Tensor]:
    """The patches that a convolution sees, (patches, inputs), some examples at a time."""
    flat = isinstance(layer, nn.Conv1d)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = functional.pad(given, _padding(layer), mode=mode)
    padded = padded.unsqueeze(-2) if flat else padded
    sizes = [(1, *value) if flat else value for value in (layer.kernel_size, layer.dilation, layer.stride)]
    kernel, dilation, stride = sizes
    for some in torch.split(padded, max(1, _AT_ONCE // max(1, padded[0].numel() * layer.weight[0, 0].numel()))):
        yield functional.unfold(some, kernel, dilation, 0, stride).transpose(1, 2).flatten(0, 1)


def _padding(layer: nn.Conv1d | nn.Conv2d) -> list[int]:
    """Before and after, last axis first, as `pad` takes it."""
    if layer.padding == "same":
        missing = [spread * (size - 1) for spread, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [part for one in reversed(missing) for part in (one // 2, one - one // 2)]
    width = layer.padding if not isinstance(layer.padding, str) else (0,) * len(layer.kernel_size)
    return [part for one in reversed(width) for part in (one, one)]


__all__ = ["Labels", "evidence_of", "fisher", "gram"]
