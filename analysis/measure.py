"""A measure: numbers taken of a matrix, a model, a pair of models or what they compute, registered by a decorator in a file of its own."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from weightspace.errors import AnalysisError
from weightspace.registry import Registry
from weightspace.task import Task, task_through

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
            `task pair`: of a Task and two. Its keyword parameters are its settings; `generator` is a source of chance, `other` see `is_mixed`.
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
        return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY and one.name not in ("generator", "other")}

    @property
    def is_mixed(self) -> bool:
        """Whether, of a task pair, the second network may be of another architecture: it has a keyword `other` then, the task with its module."""
        return "other" in inspect.signature(self.function).parameters

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
        task: what the models compute on, for measures of that; one that its module does not fit runs in its own module on the same batches.
        is_own: whether all do, as models of a population may: equal names and shapes go with more than one function.
    """

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    task: Task | None = None
    is_own: bool = False

    def __call__(self, *of: Any) -> Values:
        """Take the measure.

        Raises:
            AnalysisError: the two models of a pair are of two architectures, and it compares those of one.
        """
        one = measures[self.name]
        given: dict[str, Any] = {"generator": torch.Generator().manual_seed(self.seed)} if one.is_random else {}
        if self.task is None:
            return one(*of, **self.settings, **given)
        first, last = (task_through(self.task, model, is_own=self.is_own) for model in (of[0], of[-1]))
        if last.module is not first.module and last is not self.task:  # perhaps both are of one architecture, which is not the task's
            last = task_through(first, of[-1], is_own=True)
        if last.module is not first.module:
            if not one.is_mixed:
                raise AnalysisError(
                    f"measure '{self.name}' compares networks of one architecture, activations too, and these are of two; take one that compares any, such as 'cka'"
                )
            given["other"] = last
        return one(first, *of, **self.settings, **given)

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
