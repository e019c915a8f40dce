"""A measure: numbers taken of a matrix, a model, a pair of models or what they compute, registered by a decorator in a file of its own."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from weightspace.registry import Registry
from weightspace.task import Task

Scope = Literal["matrix", "model", "pair", "task", "task pair"]
"""What a measure is taken of: the singular values of one matrix, a Checkpoint, two of them, or what one or two compute on a Task."""

Values = Mapping[str, float | int | str | None]
"""What a measure says, by key: numbers, or text. What could not be taken is None, and what is not finite is stored so."""


@dataclass(frozen=True)
class Measure:
    """A registered measure; calling it takes it.

    Attributes:
        name: that it is registered, stored and asked for under.
        function: what takes it. `matrix`: of a `Spectrum`; `model`: of a Checkpoint; `pair`: of two; `task`: of a Task and a Checkpoint;
            `task pair`: of a Task and two. Its keyword parameters are its settings; `generator` is a source of chance.
        of: what it is taken of.
        version: raised when its results change, so that what the catalog keeps is taken anew.
        reference: paper and equation.
        unit: of its values; empty for plain numbers.
        is_symmetric: for pairs, whether it says the same of (b, a) as of (a, b), but for the order of layers in its keys; one that has a
            direction is taken of both orders.
    """

    name: str
    function: Callable[..., float | int | Values]
    of: Scope
    version: str = "1"
    reference: str = ""
    unit: str = ""
    is_symmetric: bool = True

    def __call__(self, *of: Any, **settings: Any) -> Values:
        """Take the measure; a function that returns one number has it under the key ''."""
        found = self.function(*of, **settings)
        return found if isinstance(found, Mapping) else {"": found}

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.function) or "").partition("\n")[0]

    @property
    def settings(self) -> dict[str, Any]:
        """Its settings with their defaults."""
        parameters = inspect.signature(self.function).parameters.values()
        return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY and one.name != "generator"}

    @property
    def is_random(self) -> bool:
        """Whether it draws numbers."""
        return "generator" in inspect.signature(self.function).parameters


@dataclass(frozen=True)
class Taking:
    """A measure with its settings, as a function of what it is taken of that may cross to another process.

    Attributes:
        name: of the measure.
        settings: of the measure, those that differ from its defaults or all.
        seed: what chance starts from each time, so that a result depends on nothing taken before.
        task: what the models compute on, for measures of that.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    task: Task | None = None

    def __call__(self, *of: Any) -> Values:
        """Take the measure."""
        one = measures[self.name]
        chance = {"generator": torch.Generator().manual_seed(self.seed)} if one.is_random else {}
        return one(*((self.task,) if self.task is not None else ()), *of, **self.settings, **chance)

    @property
    def parameters(self) -> dict[str, Any]:
        """What its results depend on, as JSON can hold it."""
        one = measures[self.name]
        given = {key: list(value) if isinstance(value, tuple) else value for key, value in {**one.settings, **self.settings}.items()}
        return given | ({"seed": self.seed} if one.is_random else {})


measures: Registry[Measure] = Registry("measure", "weightspace.analysis.measures")


def measure(
    name: str, *, of: Scope, version: str = "1", reference: str = "", unit: str = "", is_symmetric: bool = True
) -> Callable[[Callable[..., float | int | Values]], Measure]:
    """Register a function as a measure.

    Args:
        name: to register it under.
        of: what it is taken of.
        version: see `Measure`.
        reference: paper and equation.
        unit: of its values.
        is_symmetric: see `Measure`.
    """
    return lambda function: measures.add(name, Measure(name, function, of, version, reference, unit, is_symmetric))
