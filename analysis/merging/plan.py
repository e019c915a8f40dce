"""A plan: every tensor of the result, what it is made of, and every reason why it cannot be made, found from headers alone."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from weightspace.analysis.merging.method import MergeMethod
from weightspace.analysis.merging.recipe import Recipe, Source
from weightspace.checkpoint import TensorInfo
from weightspace.errors import MergeError


@dataclass(frozen=True)
class Part:
    """One tensor of one input.

    Attributes:
        source: the input.
        name: of the tensor there.
    """

    source: Source
    name: str


@dataclass(frozen=True)
class Step:
    """How one tensor of the result is made.

    Attributes:
        name: of the tensor.
        dtype: that it is written in.
        shape: of it and of every part.
        parts: the inputs' tensors, the base not among them.
        base: the base's tensor.
        parameters: of the method.
        evidence: where data on each input lie, by name.
        is_copy: whether it is the first part as it is: integers are never averaged. The other parts are those that must be equal to it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]
    base: Part | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, tuple[str | None, ...]] = field(default_factory=dict)
    is_copy: bool = False

    @property
    def info(self) -> TensorInfo:
        """What the result's header says of it."""
        return TensorInfo(self.name, self.dtype, self.shape)

    @property
    def all_parts(self) -> tuple[Part, ...]:
        """The inputs' tensors, and the base's."""
        return self.parts if self.base is None else (*self.parts, self.base)


@dataclass(frozen=True)
class Plan:
    """What will be done.

    Attributes:
        recipe: that it carries out.
        method: of the recipe.
        steps: one for each tensor of the result that is stored, in order.
        aliases: further names of a tensor, for tied ones.
        layers: of each stack that the recipe puts together from slices, which layer of its model each one was.
        problems: why it cannot be carried out, one line each.
        notes: what a user should know, one line each.
    """

    recipe: Recipe
    method: MergeMethod
    steps: tuple[Step, ...]
    aliases: Mapping[str, str]
    layers: Mapping[str, tuple[int, ...]]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """Bytes of the result."""
        return sum(step.info.nbytes for step in self.steps)

    @cached_property
    def sources(self) -> tuple[Source, ...]:
        """Every input that tensors are taken from, in the recipe's order."""
        used = {part.source for step in self.steps for part in step.all_parts}
        return tuple(source for source in self.recipe.sources if source in used)

    def __repr__(self) -> str:
        problems = f", {len(self.problems)} problems" if self.problems else ""
        return (
            f"<Plan of {len(self.steps)} tensors by {self.method.name} from {len(self.sources)} models, {self.num_bytes:,} bytes{problems}>"
        )

    def _repr_html_(self) -> str:
        """What will be done to which tensor, for notebooks."""
        from weightspace import html

        steps = (
            {
                "tensor": step.name,
                "shape": " × ".join(map(str, step.shape)),
                "dtype": step.dtype,
                "done": "copied" if step.is_copy else self.method.name,
                "parts": len(step.all_parts),
            }
            for step in self.steps
        )
        told = [html.rows([{what: line} for line in lines]) for what, lines in (("problem", self.problems), ("note", self.notes)) if lines]
        return html.page(repr(self)[1:-1], *told, html.rows(steps, len(self.steps)))

    def expect_possible(self) -> "Plan":
        """Return the plan.

        Raises:
            MergeError: it cannot be carried out.
        """
        if self.problems:
            more = len(self.problems) - 1
            raise MergeError(self.problems[0] + (f" (and {more} more: --dry-run lists them)" if more else ""))
        return self
