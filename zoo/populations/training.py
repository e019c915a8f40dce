"""Training of many networks of one architecture at once, each of which comes out as it would alone."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from weightspace import parallel
from weightspace.linalg import one_thread
from weightspace.symmetry import StateDict
from weightspace.zoo.populations.layers import Stacked, run

Loss = Callable[[Tensor, Tensor], Tensor]
"""Of outputs `(models, batch, ...)` and targets `(models, batch, ...)`: each network's mean loss, `(models,)`."""

Batches = Callable[[], tuple[Tensor, Tensor]]
"""Gives the inputs and targets of the next step, each `(models, batch, ...)`."""

Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Makes of inputs and targets, each `(models, batch, ...)`, those of each network's own task."""

TOGETHER = 64
"""Networks of a stack: more would not fit the caches, fewer would leave the products too small."""

_LINE = 16  # numbers in a line of the cache
_BLOCK = 32  # steps whose batches are drawn at once
_AT_ONCE = 1024  # examples that a stack is measured on at once

Item = TypeVar("Item")
Made = TypeVar("Made")


@runtime_checkable
class Optimizer(Protocol):
    """Changes stacked parameters by their gradients; what it remembers is of this stack."""

    def step(
        self,
        parameters: Float[Tensor, "models all"],
        gradient: Float[Tensor, "models all"],
        rates: Float[Tensor, "models 1"],
        decays: Float[Tensor, "models 1"],
    ) -> None:
        """Change the parameters in place."""


@dataclass
class Adam:
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv:1711.05101, algorithm 2), a decay of `rate * decay` a step as in torch."""

    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    _moments: tuple[Tensor, Tensor] | None = field(default=None, init=False)
    _steps: int = field(default=0, init=False)

    def step(self, parameters: Tensor, gradient: Tensor, rates: Tensor, decays: Tensor) -> None:
        """Change the parameters in place."""
        first, second = self._moments = self._moments or (torch.zeros_like(parameters), torch.zeros_like(parameters))
        self._steps += 1
        one, two = self.betas
        first.lerp_(gradient, 1 - one)
        second.mul_(two).addcmul_(gradient, gradient, value=1 - two)
        # The first moments' bias is corrected with the rate, a number a network, and that of the second moments with epsilon and the rate.
        scale = (1 - two**self._steps) ** 0.5
        spread = second.sqrt().add_(self.epsilon * scale)
        parameters.mul_(1 - rates * decays).addcmul_(
            torch.div(first, spread, out=spread), rates * (scale / (1 - one**self._steps)), value=-1
        )


@dataclass
class SGD:
    """Gradient descent with heavy-ball momentum, as in torch; weight decay is decoupled here too."""

    momentum: float = 0.9
    _velocity: Tensor | None = field(default=None, init=False)

    def step(self, parameters: Tensor, gradient: Tensor, rates: Tensor, decays: Tensor) -> None:
        """Change the parameters in place."""
        self._velocity = torch.zeros_like(parameters) if self._velocity is None else self._velocity
        self._velocity.mul_(self.momentum).add_(gradient)
        parameters.mul_(1 - rates * decays).sub_(rates * self._velocity)


OPTIMIZERS: dict[str, Callable[[], Optimizer]] = {"adam": Adam, "sgd": SGD}


@dataclass(frozen=True, eq=False)
class Trainee:
    """One network before its training.

    Attributes:
        state: its first weights, under the module's names.
        generator: draws its batches.
        learning_rate: of its own.
        weight_decay: of its own, decoupled.
        examples: numbers of the training examples that it sees; None is all.
    """

    state: StateDict
    generator: torch.Generator
    learning_rate: float
    weight_decay: float = 0.0
    examples: Int[Tensor, " seen"] | None = None


def train(
    module: nn.Module, networks: Sequence[Trainee], batches: Batches, loss: Loss, optimizer: Optimizer, steps: Iterable[int]
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Train a stack of networks.

    A network comes out the same to the bit whichever others are in the stack; only where a product of a few numbers has a single row
    or column (an adapter of rank 1 of a layer narrower than 16) may its last bits depend on where in the stack it stands.

    Args:
        module: of their architecture; its own weights are not looked at.
        networks: what each starts from.
        batches: of all of them, see `drawn` and `whole`.
        loss: of each.
        optimizer: a fresh one.
        steps: after which copies are taken; 0 is the start, and training ends at the largest.

    Yields:
        Each of the steps with a copy of the stacked weights, `(models, ...)`.
    """
    wanted, count = sorted(set(steps)), len(networks)
    # A network alone is trained beside a copy of itself: sums over a stack of one go in another order.
    networks = [*networks] * 2 if count == 1 else networks
    shapes = {name: parameter.shape for name, parameter in module.named_parameters()}
    flat = torch.stack([torch.cat([one.state[name].flatten() for name in shapes]) for one in networks])
    # Each network's parameters begin at a multiple of 64 bytes: products with narrow matrices round as their place in memory has it.
    flat = nn.functional.pad(flat, (0, -flat.shape[1] % _LINE))
    rest = {name: torch.stack([one.state[name] for one in networks]) for name in networks[0].state if name not in shapes}
    rates, decays = (
        torch.tensor(values)[:, None] for values in zip(*[(one.learning_rate, one.weight_decay) for one in networks], strict=True)
    )
    sizes = [shape.numel() for shape in shapes.values()]
    sizes.append(flat.shape[1] - sum(sizes))

    def named(parameters: Tensor) -> dict[str, Tensor]:
        parts = zip(shapes.items(), torch.split(parameters, sizes, 1), strict=False)  # the last is no parameter
        made = {name: part.view(len(networks), *shape) for (name, shape), part in parts} | rest
        return {name: made[name] for name in networks[0].state}

    for step in range(wanted[-1] + 1):
        if step in wanted:
            yield step, {name: tensor[:count].clone() for name, tensor in named(flat).items()}
        if step == wanted[-1]:
            return
        if not parallel.is_wanted():
            raise CancelledError
        inputs, targets = (part.expand(len(networks), *part.shape[1:]) for part in batches())
        watched = flat.detach().requires_grad_()
        # Summed over the networks: each one's gradient is that of its own loss.
        [gradient] = torch.autograd.grad(loss(run(module, named(watched), inputs, training=True), targets).sum(), watched)
        with torch.no_grad():
            optimizer.step(flat, gradient, rates, decays)


def drawn(inputs: Tensor, targets: Tensor, networks: Sequence[Trainee], size: int, change: Change | None = None) -> Batches:
    """Batches that each network's generator draws, with replacement, from the examples that it sees.

    Args:
        inputs: of all examples, `(examples, ...)`.
        targets: `(examples, ...)`.
        networks: in the order of the stack.
        size: examples of a batch.
        change: makes of these what each network is to learn.
    """

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            for at in torch.stack([_numbers(one, len(inputs), size) for one in networks], 1):
                # One row after the other is taken far faster so than by indexing with two dimensions.
                batch, wanted = (part.index_select(0, at.flatten()).view(*at.shape, *part.shape[1:]) for part in (inputs, targets))
                yield change(batch, wanted) if change else (batch, wanted)

    return batches().__next__


def _numbers(network: Trainee, count: int, size: int) -> Tensor:
    """Numbers of examples for a block of steps."""
    seen = network.examples
    found = torch.randint(count if seen is None else len(seen), (_BLOCK, size), generator=network.generator)
    return found if seen is None else seen[found]


def whole(inputs: Shaped[Tensor, "models examples ..."], targets: Shaped[Tensor, "models examples ..."]) -> Batches:
    """All examples at every step."""
    return lambda: (inputs, targets)


def cross_entropy(logits: Tensor, classes: Tensor) -> Tensor:
    """Each network's mean cross entropy, the classes last."""
    return _surprise(logits, classes).mean(1)


def _surprise(logits: Tensor, classes: Tensor) -> Tensor:
    """Minus the log probability of each class, `(models, all others)`."""
    # Sums over rows of ten cost twice as much as those over ten rows, and torch's own cross entropy four times.
    columns = logits.flatten(1, -2).mT.contiguous()
    return columns.logsumexp(1) - columns.gather(1, classes.flatten(1)[:, None]).squeeze(1)


def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Each network's mean squared error."""
    return (outputs - targets).square().flatten(1).mean(1)


@torch.no_grad()
def judged(
    module: nn.Module,
    weights: Stacked,
    inputs: Tensor,
    classes: Tensor,
    seen: Sequence[Tensor | None] | None = None,
    change: Change | None = None,
) -> list[dict[str, float]]:
    """Accuracy and mean cross entropy of each network.

    Args:
        module: of their architecture.
        weights: of all of them.
        inputs: the same for all, `(examples, ...)`.
        classes: `(examples, ...)`.
        seen: numbers of the examples that each is judged by; None is all.
        change: as in `drawn`.
    """
    models = len(next(iter(weights.values())))
    right, lost = [], []
    for pair in zip(torch.split(inputs, _AT_ONCE), torch.split(classes, _AT_ONCE), strict=True):
        some, wanted = (part.expand(models, *part.shape) for part in pair)
        some, wanted = change(some, wanted) if change else (some, wanted)
        logits = run(module, weights, some)
        right.append((logits.argmax(-1) == wanted).double().reshape(models, len(pair[0]), -1).mean(2))
        lost.append(_surprise(logits, wanted).view(models, len(pair[0]), -1).mean(2))
    accuracy, loss = torch.cat(right, 1), torch.cat(lost, 1)
    chosen = [slice(None) if one is None else one for one in seen or [None] * models]
    return [{"accuracy": float(accuracy[at, one].mean()), "loss": float(loss[at, one].mean())} for at, one in enumerate(chosen)]


def stacks(items: Iterable[Item], key: Callable[[Item], object]) -> list[list[Item]]:
    """Items that can be trained together, in order: those of equal key, `TOGETHER` at most."""
    groups: dict[object, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return [group[at : at + TOGETHER] for group in groups.values() for at in range(0, len(group), TOGETHER)]


def side_by_side(
    work: Callable[[Item], Made], items: Iterable[Item], jobs: int | None = None, backend: str = "local"
) -> Generator[Made, None, None]:
    """Do something with every item on threads or on a cluster, and yield what it makes in order.

    Threads suffice here, since torch lets go of the interpreter while it computes. Who stops early waits for no more than the step
    of training that has begun.

    Args:
        work: computes with torch, which has one thread in each of these: products this small only lose by more, and sums keep one order.
        items: taken as they are needed.
        jobs: threads, or workers of a cluster; None is one a core.
        backend: `local` for threads, or a cluster.
    """
    with one_thread():
        yield from parallel.run(partial(_alone, work), items, jobs=jobs, backend="threads" if backend == "local" else backend)


def _alone(work: Callable[[Item], Made], item: Item) -> Made:
    torch.set_num_threads(1)
    # Numbers too small to be normal cost a hundred times as much as others, and second moments are full of them.
    torch.set_flush_denormal(True)
    return work(item)
