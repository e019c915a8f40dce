"""A recipe: what is merged with what, how, and into which form; mergekit's YAML is one way to write it."""

import json
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from weightspace.errors import MergeError, one_line

Scalar = bool | int | float | str
Setting = Scalar | tuple["Scalar", ...] | tuple["Filtered", ...]
"""A parameter's value: one for all tensors, a gradient over the layers, or several by name."""


@dataclass(frozen=True)
class Filtered:
    """A value for the tensors whose name contains a text.

    Attributes:
        value: one, or a gradient over the layers.
        filter: the text; None or `*` for every tensor.
    """

    value: Scalar | tuple[Scalar, ...]
    filter: str | None = None

    def takes(self, tensor: str) -> bool:
        """Whether it speaks of a tensor."""
        return self.filter in (None, "*") or str(self.filter) in tensor


@dataclass(frozen=True)
class Source:
    """A model, with adapters that are applied to it first; written `model+adapter`.

    Attributes:
        model: a path, a catalog name or id.
        adapters: of the same kind, in the order in which they are applied.
    """

    model: str
    adapters: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "+".join((self.model, *self.adapters))

    @classmethod
    def read(cls, given: "str | Path | Source", where: str) -> "Source":
        """Read `model+adapter`, where a file of that very name is none.

        Raises:
            MergeError: it is empty on a side of a `+`.
        """
        if isinstance(given, Source):
            return given
        text = str(given).strip()
        if text and ("+" not in text or Path(text).exists()):
            return cls(text)
        model, *adapters = text.split("+")
        if not model or not all(adapters):
            raise MergeError(f"{where} is '{one_line(text, 80)}'; expected a model, or model+adapter")
        return cls(model, tuple(adapters))


@dataclass(frozen=True)
class Input:
    """A model that goes into a merge.

    Attributes:
        source: which.
        parameters: of the method, for this model; files of evidence stand among them.
        layers: the first layer taken and the first not taken; None for all.
    """

    source: Source
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    layers: tuple[int, int] | None = None


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of the result, and what they are made of.

    Attributes:
        inputs: of equally many layers.
        base: in place of the recipe's.
        parameters: of the method, in this slice.
    """

    inputs: tuple[Input, ...]
    base: Source | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Module:
    """A part of a model with layers of its own, such as an encoder.

    Attributes:
        slices: what its layers are made of, in order.
        parameters: of the method, in this part.
    """

    slices: tuple[Slice, ...]
    parameters: Mapping[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class Align:
    """How the inputs are brought into one order of neurons before they are merged.

    Attributes:
        method: a matching method, such as `weight`.
        to: the model that the others are aligned to; None for the base, or the first.
        spec: a YAML file that names the axes; None for what the catalog or a known architecture says.
        task: `module:function` that returns a Task, for methods that look at activations.
        many: align all of them jointly, through a common order, in place of each to one.
        options: of the method.
    """

    method: str = "weight"
    to: Source | None = None
    spec: str | None = None
    task: str | None = None
    many: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Repair:
    """How the activations of the result are mended.

    Attributes:
        task: `module:function` that returns a Task, on whose batches activations are measured.
        mode: `repair`, or `reset` for running statistics alone.
    """

    task: str
    mode: Literal["reset", "repair"] = "repair"


@dataclass(frozen=True)
class Select:
    """That models which make the result worse are left out, as greedy soups do.

    Attributes:
        task: `module:function` that returns a Task of held-out data, on which merges are judged.
        metric: which of its numbers counts.
        maximize: whether more is better.
    """

    task: str
    metric: str = "accuracy"
    maximize: bool = True


@dataclass(frozen=True)
class Adapter:
    """That the result is written as an adapter: its difference from the base, by truncated SVD.

    Attributes:
        rank: of the update of each matrix.
        alpha: its scale, as adapters state it; None for the rank.
        targets: a regular expression that names of matrices match; None for every matrix that differs.
    """

    rank: int
    alpha: float | None = None
    targets: str | None = None


@dataclass(frozen=True)
class Recipe:
    """What to merge, and how.

    Attributes:
        merge_method: a registered method.
        modules: what the result is made of, by the prefix of its tensors' names; one with the prefix "" is the whole model.
        base_model: what the others come from.
        parameters: of the method.
        dtype: inputs are converted to it first; `float64` also computes in it.
        out_dtype: of the result; by default `dtype`, then the widest of the inputs.
        tokenizer_source: `union`, `base` or a model; None where all models have one vocabulary.
        tokenizer: the same in mergekit's long form (`source`, `tokens`, `pad_to_multiple_of`).
        chat_template: `auto`, a model, or the text of one.
        seed: of methods that leave something to chance.
        align: before merging.
        repair: after merging.
        select: leave out models that make the result worse.
        adapter: write the difference from the base in place of the model.
        keep: which of the models can be had back from the result by `unmerge`: none, the base, or all.
        name: what the model card calls the result.
    """

    merge_method: str
    modules: Mapping[str, Module]
    base_model: Source | None = None
    parameters: Mapping[str, Setting] = field(default_factory=dict)
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: str | None = None
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    seed: int = 0
    align: Align | None = None
    repair: Repair | None = None
    select: Select | None = None
    adapter: Adapter | None = None
    keep: Literal["none", "base", "all"] = "none"
    name: str | None = None

    @classmethod
    def of(
        cls,
        merge_method: str,
        models: Sequence[str | Source | Input],
        base_model: str | Source | None = None,
        *,
        parameters: Mapping[str, Setting] | None = None,
        **known: Any,
    ) -> "Recipe":
        """Merge whole models; `known` are further fields.

        Example:
            >>> recipe = Recipe.of("linear", ["a.safetensors", "b.safetensors"], parameters={"weight": 0.5})
            >>> [str(source) for source in recipe.sources]
            ['a.safetensors', 'b.safetensors']
        """
        inputs = tuple(one if isinstance(one, Input) else Input(Source.read(one, "models")) for one in models)
        base = None if base_model is None else Source.read(base_model, "base_model")
        return cls(merge_method, {"": Module((Slice(inputs),))}, base, parameters or {}, **known)

    @classmethod
    def read(cls, source: "Path | str | Mapping[str, Any] | Recipe") -> "Recipe":
        """Read a recipe from a YAML file, its text, or plain values.

        Raises:
            MergeError: it is no recipe; the message names the key.
        """
        from weightspace.analysis.merging.recipe_text import document, read_recipe  # which makes recipes

        if isinstance(source, Recipe):
            return source
        where, found = ("the recipe", source) if isinstance(source, Mapping) else document(source, "recipe")
        return read_recipe(found, where)

    @property
    def sources(self) -> tuple[Source, ...]:
        """Every model that is named, each once, in order; the base first."""
        named = [self.base_model, self.align.to if self.align else None]
        for slice in self.slices:
            named += [slice.base, *(one.source for one in slice.inputs)]
        return tuple(dict.fromkeys(one for one in named if one is not None))

    @property
    def slices(self) -> tuple[Slice, ...]:
        """Those of all modules."""
        return tuple(slice for module in self.modules.values() for slice in module.slices)

    def only(self, taken: Set[Source]) -> "Recipe":
        """The recipe with these of its models alone; bases stay where they are named as such."""

        def left(slice: Slice) -> Slice:
            return replace(slice, inputs=tuple(one for one in slice.inputs if one.source in taken))

        modules = {prefix: replace(module, slices=tuple(map(left, module.slices))) for prefix, module in self.modules.items()}
        return replace(self, modules=modules)

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain values that `read` takes; what stands at its default is left out."""
        from weightspace.analysis.merging.recipe_text import recipe_form

        return recipe_form(self)

    def to_json(self) -> str:
        """The recipe in one canonical form, the same for equal recipes."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))


def all_settings(recipe: Recipe) -> Iterator[tuple[str, bool]]:
    """Every parameter that a recipe sets anywhere, and whether it does so for one model."""
    yield from ((name, False) for name in recipe.parameters)
    for module in recipe.modules.values():
        yield from ((name, False) for name in module.parameters)
        for slice in module.slices:
            yield from ((name, False) for name in slice.parameters)
            for one in slice.inputs:
                yield from ((name, True) for name in one.parameters)
