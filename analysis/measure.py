"""A measure: numbers taken of a matrix, a model, a pair of models or what they compute, registered by a decorator in a file of its own."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from weightspace.registry import Registry

Scope = Literal["matrix", "model", "pair", "task", "task pair"]
"""What a measure is taken of: the singular values of one matrix, a Checkpoint, two of them, or what one or two compute on a Task."""

Values = Mapping[str, float | str | None]
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
    """

    name: str
    function: Callable[..., float | Values]
    of: Scope
    version: str = "1"
    reference: str = ""
    unit: str = ""

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


measures: Registry[Measure] = Registry("measure", "weightspace.analysis.measures")


def measure(
    name: str, *, of: Scope, version: str = "1", reference: str = "", unit: str = ""
) -> Callable[[Callable[..., float | Values]], Measure]:
    """Register a function as a measure.

    Args:
        name: to register it under.
        of: what it is taken of.
        version: see `Measure`.
        reference: paper and equation.
        unit: of its values.
    """
    return lambda function: measures.add(name, Measure(name, function, of, version, reference, unit))
