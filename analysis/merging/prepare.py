"""What is done to models before they are merged: opened, adapters applied, brought into one order of neurons; all of it lazily."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from blake3 import blake3
from torch import Tensor

from weightspace.adapters import apply_adapter
from weightspace.analysis.matching import match, match_many
from weightspace.analysis.merging.embeddings import with_one_vocabulary
from weightspace.analysis.merging.evidence import fisher, gram
from weightspace.analysis.merging.plan import Plan
from weightspace.analysis.merging.recipe import Recipe, Source
from weightspace.analysis.merging.tokenizer import Common, common_vocabulary, vocabulary_problems
from weightspace.architectures import spec_for
from weightspace.checkpoint import Checkpoint
from weightspace.companions import TOKENIZER_FILES
from weightspace.errors import MergeError, TaskError, one_line
from weightspace.modules import load_function
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict, Symmetry
from weightspace.task import Task
from weightspace.vocabulary import Vocabulary

Opener = Callable[[str], Checkpoint]
SpecOf = Callable[[Checkpoint], SymmetrySpec]


@dataclass(frozen=True)
class Models:
    """The models of a recipe.

    Attributes:
        ready: what is merged: adapters applied, brought to one vocabulary.
        adapted: the same in their own vocabularies.
        stored: the same before anything was done to them: what says the dtype of the result.
        parents: everything that was opened, by what the recipe calls it.
        vocabularies: of the models that have a tokenizer beside them.
        common: the vocabulary that all were brought to, where the recipe asks for one.
        problems: what stands in the way, a line each.
        notes: what a user should know, a line each.
    """

    ready: Mapping[Source, Checkpoint]
    adapted: Mapping[Source, Checkpoint]
    stored: Mapping[Source, Checkpoint]
    parents: Mapping[str, Checkpoint]
    vocabularies: Mapping[Source, Vocabulary] = field(default_factory=dict)
    common: Common | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def folders(self) -> dict[str, Path | None]:
        """Where each model's tokenizer lies, by what the recipe calls the model."""
        return {str(source): folder_of(stored) for source, stored in self.stored.items()}


def open_models(recipe: Recipe, opener: Opener) -> Models:
    """Open everything that a recipe names, each once; an adapter in place of a model is applied to the base.

    Raises:
        FormatError, UnknownNameError: nothing there, or no checkpoint.
        MergeError: an adapter where there is no base, or one that does not fit; a model that holds no weights.
    """
    opened: dict[str, Checkpoint] = {}

    def opening(name: str) -> Checkpoint:
        if name not in opened:
            opened[name] = opener(name)
            if opened[name].kind == "trainer" or not len(opened[name]):
                raise MergeError(f"'{one_line(name, 120)}' holds no weights of a model; name the checkpoint of one")
        return opened[name]

    ready: dict[Source, Checkpoint] = {}
    stored: dict[Source, Checkpoint] = {}
    for source in recipe.sources:
        model, adapters = opening(source.model), [opening(name) for name in source.adapters]
        if model.kind == "adapter":
            base = recipe.base_model
            if base is None or base == source:
                raise MergeError(
                    f"'{one_line(str(source), 120)}' is an adapter; name the model it belongs to as base_model, or write model+adapter"
                )
            adapters, model = [model, *adapters], opening(base.model)
        stored[source] = model
        for adapter in adapters:
            model = apply_adapter(model, adapter)
        ready[source] = model
    return Models(ready, ready, stored, opened)


def folder_of(checkpoint: Checkpoint) -> Path | None:
    """The folder of a model, where it has one."""
    return checkpoint.path if checkpoint.path is not None and checkpoint.path.is_dir() else None


def with_vocabularies(models: Models, recipe: Recipe) -> Models:
    """Read the vocabularies, and bring all models to the one that the recipe asks for; where it asks for none, say how they differ.

    Raises:
        MergeError, UnknownNameError: the recipe asks for a vocabulary that cannot be made.
        FormatError: a damaged tokenizer.
    """
    asked = recipe.tokenizer_source or recipe.tokenizer.get("source", "union" if recipe.tokenizer else None)
    folders = {source: folder for source, stored in models.stored.items() if (folder := folder_of(stored)) is not None}
    if asked is None and len({_tokenizer(models.stored[source], folder) for source, folder in folders.items()}) < 2:
        return models  # one tokenizer for all, which need not be looked into
    found = {source: Vocabulary.read(folder) for source, folder in folders.items()}
    known = {source: vocabulary for source, vocabulary in found.items() if vocabulary is not None}
    sources = [(str(source), known.get(source)) for source in models.ready]
    if asked is None:
        return replace(models, vocabularies=known, problems=tuple(vocabulary_problems(sources)))
    names = [name for name, _ in sources]
    base = None if recipe.base_model is None else names.index(str(recipe.base_model))
    common = common_vocabulary(sources, base, str(asked), recipe.tokenizer.get("tokens"), recipe.tokenizer.get("pad_to_multiple_of"))
    ready, notes = with_one_vocabulary(list(models.ready.values()), sources, common)
    return replace(models, ready=dict(zip(models.ready, ready, strict=True)), vocabularies=known, common=common, notes=notes)


def _tokenizer(stored: Checkpoint, folder: Path) -> bytes:
    """Hash of all that a vocabulary is read from, so that many models with one tokenizer cost no more than its bytes."""
    hasher = blake3(str(stored.metadata.get("config", {}).get("vocab_size")).encode())
    for name in sorted(TOKENIZER_FILES):
        content = (folder / name).read_bytes() if (folder / name).is_file() else b""
        hasher.update(f"{name} {len(content)}\n".encode() + content)
    return bytes(hasher.digest())


def alignment(plan: Plan, models: Mapping[Source, Checkpoint], spec_of: SpecOf | None = None) -> dict[Source, Symmetry]:
    """Find what brings the neurons of every input into the order of one of them.

    Args:
        plan: of a recipe with `align`.
        models: by source.
        spec_of: finds the names of a model's axes; by default by its architecture.

    Returns:
        An element for each model that moves.

    Raises:
        SymmetryError: no spec is known, or it does not fit.
    """
    how = plan.recipe.align
    assert how is not None
    target = how.to or plan.recipe.base_model or plan.sources[0]
    spec = SymmetrySpec.from_yaml(how.spec, models[target]) if how.spec else (spec_of or spec_for)(models[target])
    generator = torch.Generator().manual_seed(plan.recipe.seed)
    options: dict[str, Any] = dict(how.options)
    if how.task is not None:
        options["task"] = task_at(how.task)
    moving = [source for source in plan.sources if source != target]
    if how.many:
        matches = match_many([models[source] for source in (target, *moving)], spec, generator=generator, method=how.method, **options)
        back = matches.elements[0].inverse()
        elements = [back @ element for element in matches.elements[1:]]
    else:
        elements = [match(models[target], models[source], spec, how.method, generator=generator, **options).element for source in moving]
    return dict(zip(moving, elements, strict=True))


def task_at(reference: str) -> Task:
    """The task that a user's function returns.

    Raises:
        TaskError: it returns none.
    """
    made = load_function(reference)()
    if not isinstance(made, Task):
        raise TaskError(f"'{reference}' returned a {type(made).__name__}; name a function without arguments that returns a Task")
    return made


def gather_evidence(plan: Plan, models: Mapping[Source, Checkpoint], opener: Opener) -> dict[tuple[Source, str], Mapping[str, Tensor]]:
    """Read, or compute, what data say of each input, by the input and the name that the recipe has for it.

    A `module:function` stands for a Task, on which what the method wants is computed for the input that names it.
    """
    made: dict[tuple[Source, str], Mapping[str, Tensor]] = {}
    for step in plan.steps:
        for name, places in step.evidence.items():
            for place, part in zip(places, step.parts, strict=True):
                key = (part.source, place or "")
                if place is None or key in made:  # the plan says where one is missing
                    continue
                is_task = ":" in place and not place.startswith("hf:")
                made[key] = _MEASURES[name](task_at(place), models[part.source].state_dict()) if is_task else opener(place)
    return made


_MEASURES: Mapping[str, Callable[[Task, StateDict], Mapping[str, Tensor]]] = {"fisher": fisher, "gram": gram}
