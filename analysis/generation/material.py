"""Material: what a generator is fitted on, networks of a zoo or tasks that generated weights are to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from weightspace.analysis.generation.target import Target
from weightspace.errors import GenerationError, ShapeMismatchError
from weightspace.metanets.batch import WeightBatch
from weightspace.task import Task


@dataclass(frozen=True, eq=False)
class Material:
    """What a generator learns from.

    Attributes:
        target: of the networks that are to be made.
        networks: checkpoints of one architecture, stacked; None where weights are learned through tasks alone.
        tasks: what generated weights are to do, on examples to learn from: one, or one for each condition.
        conditions: (networks, ...), where there are networks, else (tasks, ...), or any number for one task: what each was made under; None
            without conditions.
        parents: ids of the checkpoints.
        like: the recipe of a network whose module generated networks share, so that they can be run.

    Raises:
        ShapeMismatchError: there are not as many conditions as networks or tasks.
    """

    target: Target
    networks: WeightBatch | None = None
    tasks: Sequence[Task] = ()
    conditions: Tensor | None = None
    parents: tuple[str, ...] = ()
    like: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.conditions is None:
            return
        count, what = (len(self.networks), "networks") if self.networks is not None else (len(self.tasks), "tasks")
        if len(self.conditions) != count and not (self.networks is None and count == 1):  # one task may stand for all conditions
            raise ShapeMismatchError(f"{len(self.conditions)} conditions for {count} {what}; give one for each")

    @property
    def condition_shape(self) -> tuple[int, ...] | None:
        """Shape of one condition; None without conditions."""
        return None if self.conditions is None else tuple(self.conditions.shape[1:])

    def flat(self) -> Tensor:
        """The networks' parameters, (networks, params)."""
        assert self.networks is not None
        return self.target.flat(self.networks.tensors)

    def take(self, at: Int[Tensor, " chosen"]) -> "Material":
        """Some of the networks, with their conditions and ids."""
        assert self.networks is not None
        chosen = at.tolist()
        return Material(
            self.target,
            self.networks[at],
            self.tasks,
            None if self.conditions is None else self.conditions[at],
            tuple(self.parents[k] for k in chosen) if self.parents else (),
            self.like,
        )

    def in_float32(self) -> "Material":
        """The same with weights as float32, in which generators compute; the target remembers what they were."""
        return self if self.networks is None else self.of(self.networks.to(torch.float32).tensors)

    def of(self, tensors: Mapping[str, Tensor]) -> "Material":
        """The same with other weights of the networks."""
        assert self.networks is not None
        batch = WeightBatch(self.networks.layout, dict(tensors), self.networks.module)
        return Material(self.target, batch, self.tasks, self.conditions, self.parents, self.like)


def tasks_of(material: Material) -> list[tuple[int, Task]]:
    """Each condition's number with its task; one task stands for all conditions."""
    count = 1 if material.conditions is None else len(material.conditions)
    if len(material.tasks) == 1:
        return [(at, material.tasks[0]) for at in range(count)]
    return list(enumerate(material.tasks))


def stacked(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """State dicts of one architecture, stacked tensor by tensor."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def expect_finite(conditions: Tensor) -> None:
    """Refuse conditions that are no numbers, at fit and at draw.

    Raises:
        GenerationError: there is one.
    """
    if not bool(conditions.isfinite().all()):
        raise GenerationError("a condition holds values that are not finite; leave it out, or give numbers")


__all__ = ["Material", "expect_finite", "stacked", "tasks_of"]
