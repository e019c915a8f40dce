"""Learning tasks one after another without forgetting: what a hypernetwork made for earlier tasks is held in place."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.analysis.generation.generator import Progress
from weightspace.analysis.generation.hypernetworks.condition_codes import Embedding
from weightspace.analysis.generation.target import Target
from weightspace.analysis.generation.through_tasks import learn_through
from weightspace.errors import GenerationError
from weightspace.task import Task

Parameters = Mapping[str, Tensor]


@dataclass(frozen=True)
class Turns:
    """How tasks are learned one after another; see `learn_in_turn`."""

    beta: float
    look_ahead: bool = False
    at_once: int | None = None

    @classmethod
    def of(cls, beta: float | None, *, look_ahead: bool, at_once: int | None) -> "Turns | None":
        """As settings say it: without a beta all tasks are learned at once.

        Raises:
            GenerationError: there is no beta, and something is said of turns.
        """
        if beta is not None:
            return cls(beta, look_ahead, at_once)
        if look_ahead or at_once is not None:
            raise GenerationError("look_ahead and at_once are for tasks learned one after another; give a beta, or leave them out")
        return None


@dataclass(frozen=True, eq=False)
class OutputRegulariser:
    """The distance of the weights made for earlier tasks from what they were before the task at hand.

        beta / tasks * sum over earlier tasks j of || h(e_j; theta) - h(e_j; theta before) ||^2

    (von Oswald et al., arXiv:1906.00695, equation 2). The embeddings e_j of earlier tasks get no gradient.

    Attributes:
        hypernetwork: a module that maps conditions to weights by name, (tasks, *shape).
        target: of the weights.
        conditions: (tasks, ...) of the earlier tasks.
        targets: (tasks, params), what was made for them.
        beta: strength.
        at_once: earlier tasks that are looked at each time, drawn anew; None is all.
        generator: draws them.
    """

    hypernetwork: nn.Module
    target: Target
    conditions: Tensor
    targets: Float[Tensor, "tasks params"]
    beta: float
    at_once: int | None
    generator: torch.Generator

    @classmethod
    def of(
        cls, hypernetwork: nn.Module, target: Target, conditions: Tensor, *, beta: float, at_once: int | None, generator: torch.Generator
    ) -> "OutputRegulariser":
        """Keep what a hypernetwork makes now."""
        with torch.no_grad():
            targets = _made(hypernetwork, target, dict(hypernetwork.named_parameters()), conditions)
        return cls(hypernetwork, target, conditions, targets, beta, at_once, generator)

    def __call__(self, moves: Parameters | None = None) -> Float[Tensor, ""]:
        """Compute it at the hypernetwork's parameters, differentiable in them.

        Args:
            moves: added to the parameters, by name: the step that the optimiser is about to make.
        """
        parameters = {name: tensor if moves is None else tensor + moves[name] for name, tensor in self.hypernetwork.named_parameters()}
        parameters |= {name: parameters[name].detach() for name in _embeddings(self.hypernetwork)}
        conditions, targets = self.conditions, self.targets
        if self.at_once is not None:
            drawn = torch.randperm(len(conditions), generator=self.generator)[: self.at_once].to(conditions.device)
            conditions, targets = conditions[drawn], targets[drawn]
        return self.beta * (_made(self.hypernetwork, self.target, parameters, conditions) - targets).square().sum(1).mean()


class LookingAhead(torch.optim.Adam):
    """Adam with the regulariser taken where its step for the task alone would lead to."""

    def __init__(self, hypernetwork: nn.Module, regulariser: OutputRegulariser, *, learning_rate: float) -> None:
        """Make it.

        Args:
            hypernetwork: whose parameters are stepped.
            regulariser: of earlier tasks.
            learning_rate: constant.
        """
        self.named = dict(hypernetwork.named_parameters())
        super().__init__(self.named.values(), lr=learning_rate)
        self.regulariser = regulariser

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Add the regulariser's gradient to the task's, then step."""
        with torch.enable_grad():
            held = self.regulariser({name: self._move(tensor) for name, tensor in self.named.items()})
        grads = torch.autograd.grad(held, list(self.named.values()), allow_unused=True)
        for parameter, grad in zip(self.named.values(), grads, strict=True):
            if grad is not None:
                parameter.grad = grad if parameter.grad is None else parameter.grad + grad
        super().step()

    def _move(self, parameter: Tensor) -> Tensor:
        """The step for the task's gradient alone."""
        if parameter.grad is None:
            return torch.zeros_like(parameter)
        group, known = self.param_groups[0], self.state.get(parameter, {})
        (first, second), lr, eps = group["betas"], group["lr"], group["eps"]
        zero = torch.zeros_like(parameter)
        count = float(known.get("step", 0)) + 1
        mean = first * known.get("exp_avg", zero) + (1 - first) * parameter.grad
        square = second * known.get("exp_avg_sq", zero) + (1 - second) * parameter.grad.square()
        moved: Tensor = -lr * (mean / (1 - first**count)) / ((square / (1 - second**count)).sqrt() + eps)
        return moved.detach()


def learn_in_turn(
    hypernetwork: nn.Module,
    target: Target,
    tasks: Sequence[Task],
    conditions: Tensor,
    *,
    beta: float,
    steps: int,
    learning_rate: float,
    look_ahead: bool = False,
    at_once: int | None = None,
    generator: torch.Generator,
    progress: Progress = lambda done, total: None,
    after: Callable[[int], None] = lambda at: None,
) -> None:
    """Learn tasks one after another, each with a new Adam, the weights of earlier tasks held by `OutputRegulariser`.

    Args:
        hypernetwork: a module that maps conditions to weights by name, (tasks, *shape); it is trained.
        target: of the weights.
        tasks: in the order in which they are learned.
        conditions: one for each task.
        beta: strength of the regulariser; 0 does without it.
        steps: for each task.
        learning_rate: constant.
        look_ahead: whether the regulariser is taken after the step that the task alone would make.
        at_once: see `OutputRegulariser`.
        generator: draws batches, and earlier tasks.
        progress: is told of every step of all tasks.
        after: is called after each task with its number in the order.

    Raises:
        GenerationError: the loss became infinite or no number.
    """
    for at, task in enumerate(tasks):
        held = None
        if at and beta:
            held = OutputRegulariser.of(hypernetwork, target, conditions[:at], beta=beta, at_once=at_once, generator=generator)
        ahead = LookingAhead(hypernetwork, held, learning_rate=learning_rate) if held is not None and look_ahead else None
        learn_through(
            hypernetwork.parameters(),
            lambda _: target.whole({name: tensor[0] for name, tensor in hypernetwork(conditions[at : at + 1]).items()}),  # noqa: B023  # called before the loop goes on
            [task],
            steps=steps,
            learning_rate=learning_rate,
            generator=generator,
            progress=lambda done, _: progress(at * steps + done, len(tasks) * steps),  # noqa: B023
            penalty=None if ahead is not None else held,
            optimizer=ahead,
        )
        after(at)


def _embeddings(hypernetwork: nn.Module) -> set[str]:
    """Names of the parameters that hold a vector for each task."""
    found = [(name, module) for name, module in hypernetwork.named_modules() if isinstance(module, Embedding) and module.is_by_task]
    return {f"{name}.vectors".lstrip(".") for name, _ in found}


def _made(hypernetwork: nn.Module, target: Target, parameters: Parameters, conditions: Tensor) -> Float[Tensor, "tasks params"]:
    return target.flat(torch.func.functional_call(hypernetwork, dict(parameters), (conditions,)))


__all__ = ["LookingAhead", "OutputRegulariser", "Turns", "learn_in_turn"]
