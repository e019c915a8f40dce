"""Working out a plan: the tensors of all models matched by name and layer, and everything that is wrong with them told at once."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from inspect import signature
from typing import Any

from weightspace import dtypes
from weightspace.analysis.matching.many import match_many
from weightspace.analysis.matching.match import methods as matching_methods
from weightspace.analysis.merging.layers import Place, place, stacks, stands_first
from weightspace.analysis.merging.method import MergeMethod, methods
from weightspace.analysis.merging.plan import Part, Plan, Step
from weightspace.analysis.merging.recipe import Align, Input, Module, Recipe, Slice, Source, all_settings
from weightspace.analysis.merging.settings import evidence_of, parameters_of
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.errors import MergeError, UnknownNameError, one_line
from weightspace.tied_heads import TIED, ties_head

DERIVED = ("inv_freq", "position_ids", "masked_bias", "attn.bias", "num_batches_tracked", "token_type_ids")
"""Ends of names of buffers that follow from the architecture: a file may lack them."""


DEFAULT = "default"
"""What mergekit calls the one part of a model that has but one."""


def plan(recipe: Recipe, models: Mapping[Source, Checkpoint], stored: Mapping[Source, Checkpoint] | None = None) -> Plan:
    """Work out how a recipe is carried out; reads no tensor.

    Args:
        recipe: what to do.
        models: every model that the recipe names, adapters applied and vocabularies brought into line.
        stored: the models as they are stored, which say the dtype of the result; by default `models`.

    Raises:
        UnknownNameError: no such method or parameter.
    """
    method = methods[recipe.merge_method]
    if recipe.align is not None:
        _expect_options(recipe.align)
    planner = _Planner(recipe, method, models, stored or models)
    planner.notes += _idle(recipe, method)
    planner.run()
    return Plan(
        recipe,
        method,
        tuple(sorted(planner.steps.values(), key=lambda step: _order(step.name))),
        planner.aliases,
        planner.layers,
        tuple(dict.fromkeys(planner.problems)),
        tuple(dict.fromkeys(planner.notes)),
    )


def _expect_options(how: Align) -> None:
    """See that the method of alignment is known, and takes what it is given, before work begins.

    Raises:
        UnknownNameError: no such method, or no such option of it.
    """
    functions: list[Callable[..., Any]] = [matching_methods[how.method], *([match_many] if how.many else [])]
    given = [one for function in functions for one in signature(function).parameters.values()]
    known = [one.name for one in given if one.name == "how" or (one.kind == one.KEYWORD_ONLY and one.name not in ("generator", "method"))]
    for name in (*how.options, *(["task"] if how.task else [])):
        if name not in known:
            raise UnknownNameError.of(f"option of the alignment method '{how.method}'", name, known)


def _idle(recipe: Recipe, method: MergeMethod) -> Iterator[str]:
    """Say which parameters have no effect; those that no method knows are slips.

    Raises:
        UnknownNameError: no such parameter.
    """
    for name, is_of_input in all_settings(recipe):
        if name in method.evidence:
            continue
        if name not in method.parameters:
            if not any(name in other.parameters or name in other.evidence for other in methods.values()):
                raise UnknownNameError.of(f"parameter of merge method '{method.name}'", name, (*method.parameters, *method.evidence))
            yield f"parameter '{name}' has no effect: merge method '{method.name}' does not know it"
        elif is_of_input and not method.parameters[name].is_each:
            yield f"parameter '{name}' has no effect under a model: it is of the whole merge, give it under parameters"


def _order(name: str) -> tuple[Any, ...]:
    """Layers by number, so that a shard holds neighbours."""
    return tuple((0, int(part), part) if re.fullmatch("[0-9]{1,9}", part) else (1, 0, part) for part in name.split("."))


class _Planner:
    """Gathers steps, problems and notes."""

    def __init__(
        self, recipe: Recipe, method: MergeMethod, models: Mapping[Source, Checkpoint], stored: Mapping[Source, Checkpoint]
    ) -> None:
        self.recipe, self.method, self.models, self.stored = recipe, method, models, stored
        self.steps: dict[str, Step] = {}
        self.aliases: dict[str, str] = {}
        self.layers: dict[str, tuple[int, ...]] = {}
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._refused: set[str] = set()

    def run(self) -> None:
        if self.recipe.adapter and self.recipe.base_model is None:
            self.problems.append("the recipe asks for an adapter and names no base_model; an adapter is a difference from one")
        if self.recipe.adapter and self.recipe.keep != "none":
            self.problems.append(
                f"the recipe says keep: {self.recipe.keep} and asks for an adapter, which keeps no parents; leave one of the two out"
            )
        if self.recipe.adapter and self.recipe.align and self.recipe.align.to not in (None, self.recipe.base_model):
            self.problems.append(
                f"the recipe aligns to '{self.recipe.align.to}' and asks for an adapter, which would fit no base but a moved one; align to the base"
            )
        if self.recipe.adapter and (self.recipe.tokenizer_source or self.recipe.tokenizer):
            self.problems.append("the recipe asks for an adapter and for another vocabulary than the base's; leave the tokenizer out")
        if self.recipe.keep == "base" and self.recipe.base_model is None:
            self.problems.append("the recipe says keep: base and names no base_model; name one, or say keep: all")
        for prefix, module in self.recipe.modules.items():
            slices = [self._with_base(slice) for slice in module.slices]
            for slice in slices:
                try:
                    self.method.expect(len(self._taken(slice)), self._base(slice) is not None)
                except MergeError as error:
                    self.problems.append(str(error))
                    return
            prefix = "" if prefix == DEFAULT else prefix
            names = self._names(prefix, slices)
            if not names:
                self.problems.append(
                    f"no tensor of '{slices[0].inputs[0].source}' has a name that begins with '{one_line(prefix, 60)}'; name a prefix that it has"
                )
            self._module(module, slices, names)
        self._expect_covered()

    # What a slice is made of.

    def _with_base(self, slice: Slice) -> Slice:
        """Methods without a base take one that the recipe names as one more model, as mergekit does; not in slices, which name all of theirs."""
        base = slice.base or self.recipe.base_model
        if (
            self.method.base != "none"
            or base is None
            or any(one.source == base or one.layers is not None for one in slice.inputs)
            or self.method.inputs[1] == len(slice.inputs)
        ):
            return slice
        return replace(slice, inputs=(*slice.inputs, Input(base)))

    def _base(self, slice: Slice) -> Source | None:
        return None if self.method.base == "none" else slice.base or self.recipe.base_model

    def _taken(self, slice: Slice) -> list[int]:
        """Places of the models that the method is given: all but the base."""
        base = self._base(slice)
        return [at for at, one in enumerate(slice.inputs) if base is None or one.source != base]

    def _names(self, prefix: str, slices: Sequence[Slice]) -> list[str]:
        """Names of a part's tensors in any of its models, in the order of the first that has them."""
        others = [other for other in self.recipe.modules if other.startswith(prefix) and other not in (prefix, DEFAULT)]
        every = dict.fromkeys(name for slice in slices for source in self._sources(slice) for name in self.models[source].info)
        return [name for name in every if name.startswith(prefix) and not any(name.startswith(other) for other in others)]

    def _expect_covered(self) -> None:
        """Every tensor belongs to a part of the model."""
        prefixes = tuple("" if prefix == DEFAULT else prefix for prefix in self.recipe.modules)
        for source in dict.fromkeys(source for slice in self.recipe.slices for source in self._sources(slice)):
            left = [name for name in self.models[source].info if not name.startswith(prefixes)]
            if left:
                self.problems.append(
                    f"{len(left)} tensors of '{source}' belong to none of the modules, the first is '{one_line(left[0], 80)}'; "
                    "add a module with the beginning of their names, or 'default' for all that others leave"
                )
                return

    def _sources(self, slice: Slice) -> list[Source]:
        """The models that the method is given, then the base."""
        base = self._base(slice)
        return [*(slice.inputs[at].source for at in self._taken(slice)), *([base] if base else [])]

    # Tensors.

    def _module(self, module: Module, slices: Sequence[Slice], names: Sequence[str]) -> None:
        sliced = slices[0].inputs[0].layers is not None
        found = stacks(names)
        if sliced and len(found) != 1:
            what = f"{len(found)} stacks of layers ({', '.join(map(repr, list(found)[:4]))})" if found else "no numbered layers"
            self.problems.append(
                f"layer_range needs one stack of layers, the models have {what}; give each part its own slices under modules"
            )
            return
        for slice in slices:
            self._note_twice(slice)
        may_tie = self._sources(slices[0]) == self._sources(slices[-1])  # or embeddings and head come from other models
        for name in names:
            here = place(name)
            if here is None or not sliced:
                depth = 0.0 if here is None else here.layer / (found[here.stack] - 1) if found[here.stack] > 1 else 1.0
                slice = slices[0] if stands_first(name) else slices[-1]
                self._tensor(
                    name, module, slice, depth, [(source, name) for source in self._sources(slice)], set(names) if may_tie else set()
                )
        if sliced:
            self._sliced(module, slices, next(iter(found)))

    def _note_twice(self, slice: Slice) -> None:
        named = [str(one.source) for one in slice.inputs]
        for name in dict.fromkeys(name for name in named if named.count(name) > 1):
            self.notes.append(f"model '{name}' is listed {named.count(name)} times, and counts as often")

    def _sliced(self, module: Module, slices: Sequence[Slice], stack: str) -> None:
        """Lay the layers of all slices one after another."""
        made: list[int] = []
        held = {source: self._held(source, stack) for slice in slices for source in self._sources(slice)}
        for slice in slices:
            if not self._expect_layers(slice, stack):
                return
            first, end = slice.inputs[0].layers or (0, 0)
            sources, firsts = self._sources(slice), self._firsts(slice)
            for step in range(end - first):
                depth = step / (end - first - 1) if end - first > 1 else 1.0
                layers = [(source, low + step) for source, low in zip(sources, firsts, strict=True)]
                for rest in dict.fromkeys(rest for source, layer in layers for rest in held[source].get(layer, ())):
                    keys = [(source, Place(stack, layer, rest).name) for source, layer in layers]
                    self._tensor(Place(stack, len(made), rest).name, module, slice, depth, keys, set())
                made.append(first + step)
        self.layers[stack] = tuple(made)

    def _held(self, source: Source, stack: str) -> dict[int, list[str]]:
        """What names of a model's layers have after the number."""
        made: dict[int, list[str]] = {}
        for found in filter(None, map(place, self.models[source].info)):
            if found.stack == stack:
                made.setdefault(found.layer, []).append(found.rest)
        return made

    def _expect_layers(self, slice: Slice, stack: str) -> bool:
        for one in slice.inputs:
            held = stacks(self.models[one.source].info).get(stack, 0)
            if one.layers and one.layers[1] > held:
                self.problems.append(
                    f"layer_range {list(one.layers)} of model '{one.source}' ends after its last layer; it has {held} layers, give at most [0, {held}]"
                )
                return False
        return True

    def _firsts(self, slice: Slice) -> list[int]:
        """The first layer that is taken of each of `_sources`; a base that is not among the models is read where the first of them is."""
        base = self._base(slice)
        at_base = next((one for one in slice.inputs if one.source == base), slice.inputs[0])
        listed = [*(slice.inputs[at] for at in self._taken(slice)), *([at_base] if base else [])]
        return [0 if one.layers is None else one.layers[0] for one in listed]

    def _tensor(
        self, name: str, module: Module, slice: Slice, depth: float, listed: Sequence[tuple[Source, str]], may_tie: Set[str]
    ) -> None:
        """Plan one tensor of the result.

        Args:
            name: of it.
            module: the part it belongs to.
            slice: what it is made of.
            depth: of its layer.
            listed: what it is called in each of `_sources`.
            may_tie: tensors of the result that are made of the same models, and that it may be another name of.
        """
        base, taken = self._base(slice), self._taken(slice)
        found = [self._found(source, key) for source, key in listed]
        if self._is_tied(name, listed, found, may_tie):
            return
        if not any(found):
            self.notes.append(f"tensor '{one_line(name, 80)}' is left out: the models that its place is filled from have none")
            return
        lacking = [str(source) for (source, _), part in zip(listed, found, strict=True) if part is None]
        parts = [part for part in found if part is not None]
        if lacking and parts and name.endswith(DERIVED):
            self._copy(name, parts)
            return
        if lacking:
            self.problems.append(
                f"tensor '{one_line(name, 80)}' is in '{parts[0].source}' but not in '{lacking[0]}'; merge models of one architecture"
            )
            return
        infos = [self.models[part.source].info[part.name] for part in parts]
        for part, info in zip(parts, infos, strict=True):
            if info.shape != infos[0].shape:
                self.problems.append(self._reshaped(name, parts[0], infos[0], part, info))
                return
        kinds = {dtypes.dtype(info.dtype).kind for info in infos}
        if "complex" in kinds:
            self.problems.append(
                f"tensor '{one_line(name, 80)}' holds complex numbers, which are not merged; store real and imaginary parts as two tensors"
            )
            return
        if kinds.isdisjoint({"float", "quantized"}):
            self._copy(name, parts)
            return
        odd = next((part for part, info in zip(parts, infos, strict=True) if not _is_number(info.dtype)), None)
        if odd is not None:
            held = self.models[odd.source].info[odd.name].dtype
            self.problems.append(
                f"tensor '{one_line(name, 80)}' has dtype {held} in '{odd.source}', which is not merged with floats; save its values as F16 first"
            )
            return
        dtype = self.recipe.out_dtype or self.recipe.dtype or _widest([self._stored_dtype(part) for part in parts])
        try:
            evidence = {key: tuple(evidence_of(self.recipe, module, slice, key, at) for at in taken) for key in self.method.evidence}
            self._expect_evidence(slice, taken, evidence)
            named = {at: part.name for at, part in zip(taken, parts, strict=False)}
            parameters = parameters_of(self.method, self.recipe, module, slice, name, depth, named)
        except MergeError as error:
            self._refuse_once(str(error), name)
            return
        inputs, last = (parts[:-1], parts[-1]) if base else (parts, None)
        self.steps[name] = Step(name, dtype, infos[0].shape, tuple(inputs), last, parameters, evidence)

    def _refuse_once(self, problem: str, tensor: str) -> None:
        """Keep what is wrong with the parameters of a tensor, if the same was not said of another."""
        same = problem.replace(f"'{tensor}'", "")
        if same not in self._refused:
            self._refused.add(same)
            self.problems.append(problem)

    def _expect_evidence(self, slice: Slice, taken: Sequence[int], evidence: Mapping[str, tuple[str | None, ...]]) -> None:
        for key, places in evidence.items():
            for at, where in zip(taken, places, strict=True):
                if where is None:
                    raise MergeError(
                        f"merge method '{self.method.name}' needs the parameter '{key}' of model '{slice.inputs[at].source}'; "
                        "give it a file of it, or MODULE:FUNCTION that returns a Task to compute it on"
                    )

    def _found(self, source: Source, name: str) -> Part | None:
        """A tensor of a model by its name; of a tied one that the file leaves out, the other name."""
        info = self.models[source].info
        if name in info:
            return Part(source, info[name].alias_of or name)
        twin = next((other for pair in TIED for other in pair if name in pair and other != name and other in info), None)
        return None if twin is None or not ties_head(self.models[source]) else Part(source, twin)

    def _is_tied(self, name: str, listed: Sequence[tuple[Source, str]], found: Sequence[Part | None], may_tie: Set[str]) -> bool:
        """Whether all models have the tensor under another name too: then it is stored once. Where only some do, it comes untied."""
        owners = [None if part is None or part.name == key else part.name for (_, key), part in zip(listed, found, strict=True)]
        if all(owner is not None and owner == owners[0] for owner in owners) and owners[0] in may_tie:
            if any(key in self.models[source].info for source, key in listed):
                self.aliases[name] = str(owners[0])
            return True
        if any(owners) and all(part is not None for part in found):
            tied = next(str(source) for (source, _), owner in zip(listed, owners, strict=True) if owner)
            self.notes.append(
                f"tensor '{one_line(name, 80)}' is tied in '{tied}' and comes out untied: it is not in every model, or slices part what was tied"
            )
        return False

    def _copy(self, name: str, parts: Sequence[Part]) -> None:
        """Take a tensor as the base has it, or the first model: integers and what follows from the architecture are not averaged."""
        first = next((part for part in parts if part.source == self.recipe.base_model), parts[0])
        info = self.models[first.source].info[first.name]
        if name.endswith(DERIVED):
            self.steps[name] = Step(name, info.dtype, info.shape, (first,), is_copy=True)
            return
        for part in parts:
            other = self.models[part.source].info[part.name].dtype
            if other != info.dtype:
                self.problems.append(
                    f"tensor '{one_line(name, 80)}' has dtype {info.dtype} in '{first.source}' but {other} in '{part.source}'; "
                    "integers are copied and must be the same in all models"
                )
                return
        self.steps[name] = Step(name, info.dtype, info.shape, (first, *(part for part in parts if part != first)), is_copy=True)

    def _stored_dtype(self, part: Part) -> str:
        info = self.stored[part.source].info
        return info[part.name].dtype if part.name in info else self.models[part.source].info[part.name].dtype

    def _reshaped(self, name: str, one: Part, here: TensorInfo, other: Part, there: TensorInfo) -> str:
        advice = "merge models of one architecture"
        if here.shape[1:] == there.shape[1:] and (stands_first(name) or "lm_head" in name):
            advice = "their vocabularies differ: write tokenizer_source: union, or base"
        return f"tensor '{one_line(name, 80)}' has shape {list(here.shape)} in '{one.source}' but {list(there.shape)} in '{other.source}'; {advice}"


def _is_number(name: str) -> bool:
    """Whether elements of a dtype can be combined: floats of whole bytes, and blocks that expand to floats."""
    element = dtypes.dtype(name)
    return element.kind == "quantized" or (element.kind == "float" and element.torch is not None and element.bits >= 8)


def _widest(names: Sequence[str]) -> str:
    """The dtype that holds the values of all: of two halves of different kinds, float32."""
    floats = [dtypes.dtype(name) for name in names]
    widest = max(floats, key=lambda one: one.bits)
    if widest.kind == "quantized":
        return "F32"
    same = {one.name for one in floats if one.bits == widest.bits}
    return widest.name if len(same) == 1 else "F32"
