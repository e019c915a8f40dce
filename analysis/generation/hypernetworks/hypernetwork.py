"""A hypernetwork: a network that maps a condition to the weights of another, and learns through what these do."""

import abc
import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from weightspace.analysis.generation.drawing import conditions_of
from weightspace.analysis.generation.generator import Progress, WeightGenerator, Wish
from weightspace.analysis.generation.hypernetworks.condition_codes import Code, Embedding
from weightspace.analysis.generation.hypernetworks.continual import Turns, learn_in_turn
from weightspace.analysis.generation.material import Material, tasks_of
from weightspace.analysis.generation.target import Target
from weightspace.analysis.generation.through_tasks import learn_through
from weightspace.errors import GenerationError


class Hypernetwork(WeightGenerator):
    """A differentiable map from a condition to weights; it draws no chance, so one condition gives one network.

    Attributes:
        code: what is read of a condition.
    """

    def __init__(
        self,
        target: Target,
        condition_shape: tuple[int, ...] | None,
        code: Code,
        *,
        steps: int,
        learning_rate: float,
        together: int,
        turns: Turns | None = None,
    ) -> None:
        """Make it.

        Args:
            target: of the networks.
            condition_shape: of one condition; None without conditions.
            code: what is read of a condition.
            steps: of Adam; for each task where they are learned in turn.
            learning_rate: of Adam.
            together: conditions a step.
            turns: None learns all tasks at once; else one after another, held so.
        """
        super().__init__(target, condition_shape)
        self.code = code
        self.steps, self.learning_rate, self.together, self.turns = steps, learning_rate, together, turns

    @abc.abstractmethod
    def rows(self, codes: Float[Tensor, "networks size"]) -> Float[Tensor, "networks params"]:
        """Make all parameters in a row for each of several codes; differentiable, and works under `torch.func.vmap`."""

    def forward(self, conditions: Shaped[Tensor, "networks ..."] | None) -> dict[str, Tensor]:
        """Make the weights for each of several conditions, or once without: (networks, *shape)."""
        return self.target.tensors(self.rows(self.code(conditions)))

    def weights(self, condition: Tensor | None) -> dict[str, Tensor]:
        """Make the weights for one condition; differentiable, and works under `torch.func.vmap` and `grad`."""
        return self.target.tensors(self.rows(self.code(None if condition is None else condition[None]))[0])

    def learn(self, material: Material, *, generator: torch.Generator, progress: Progress) -> None:
        """Minimise the mean loss of the tasks, each under the weights made for its condition."""
        conditions = material.conditions
        if conditions is not None and len(material.tasks) not in (1, len(conditions)):
            raise GenerationError(f"{len(material.tasks)} tasks for {len(conditions)} conditions; give one for each, or one for all")
        tasks = [task for _, task in tasks_of(material)]
        common: dict[str, Any] = {
            "steps": self.steps,
            "learning_rate": self.learning_rate,
            "generator": generator,
            "progress": progress,
        }
        if conditions is None:
            learn_through(self.parameters(), lambda at: self.target.whole(self.weights(None)), tasks, together=self.together, **common)
            return
        self.code.know(conditions)
        given = conditions.to(next(self.parameters()).device)
        if self.turns is not None:
            learn_in_turn(self, self.target, tasks, given, **asdict(self.turns), **common)
            return

        def many(chosen: Sequence[int]) -> list[dict[str, Tensor]]:
            made = self(given[list(chosen)])
            return [self.target.whole({name: tensor[k] for name, tensor in made.items()}) for k in range(len(chosen))]

        learn_through(self.parameters(), lambda at: many([at])[0], tasks, together=self.together, many_weights_of=many, **common)

    def sample(self, count: int, wish: Wish, *, generator: torch.Generator) -> dict[str, Tensor]:
        """Make the network of each condition; without conditions they are all the same."""
        conditions = conditions_of(self, count, wish)
        if conditions is not None:
            self.code.expect(conditions)
            conditions = conditions.to(next(self.parameters()).device)
        made: dict[str, Tensor] = self(conditions)
        return {name: tensor.expand(count, *tensor.shape[1:]).clone() for name, tensor in made.items()}


class EmbeddingHypernetwork(Hypernetwork):
    """A hypernetwork that reads a learned embedding of each condition, and can learn tasks one after another."""

    def __init__(
        self,
        target: Target,
        condition_shape: tuple[int, ...] | None,
        *,
        embedding: int,
        beta: float | None,
        look_ahead: bool,
        at_once: int | None,
        steps: int,
        learning_rate: float,
        together: int,
    ) -> None:
        """Make it.

        Args:
            target: of the networks.
            condition_shape: none for numbers of tasks; else of a vector; None without conditions.
            embedding: size of what is learned for a condition.
            beta: None learns all tasks at once; a number learns one after another, held by the output regulariser of that strength.
            look_ahead: see `learn_in_turn`.
            at_once: see `OutputRegulariser`.
            steps: of Adam; for each task where they are learned in turn.
            learning_rate: of Adam.
            together: conditions a step.

        Raises:
            GenerationError: there are turns without conditions or without a beta.
        """
        if beta is not None and condition_shape is None:
            raise GenerationError(
                "beta is for tasks learned one after another, which their conditions tell apart; give each task one, or leave beta out"
            )
        turns = Turns.of(beta, look_ahead=look_ahead, at_once=at_once)
        code = Embedding(condition_shape, embedding)
        super().__init__(target, condition_shape, code, steps=steps, learning_rate=learning_rate, together=together, turns=turns)


def perceptron(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them, so initialised that inputs of variance 1 give outputs of variance 1; biases start at 0.

    Args:
        sizes: of the input, the hidden layers and the output.
    """
    parts: list[nn.Module] = []
    for at, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        linear = nn.Linear(fan_in, fan_out)
        nn.init.normal_(linear.weight, std=math.sqrt((2 if at else 1) / fan_in))  # a ReLU halves the second moment
        nn.init.zeros_(linear.bias)
        parts += [nn.ReLU(), linear] if at else [linear]
    return nn.Sequential(*parts)


__all__ = ["EmbeddingHypernetwork", "Hypernetwork", "perceptron"]
