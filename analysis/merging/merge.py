"""Merging from a recipe to a file: the one function that opens, checks, aligns, combines and mends, and has the result written."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from weightspace.adapters import extract_adapter
from weightspace.analysis.connectivity import repair_many
from weightspace.analysis.merging.execute import Run
from weightspace.analysis.merging.making import Making, Prepared, Progress, adapter_written, description, parents_of, written
from weightspace.analysis.merging.planner import plan
from weightspace.analysis.merging.prepare import (
    Models,
    Opener,
    SpecOf,
    alignment,
    gather_evidence,
    open_models,
    task_at,
    with_vocabularies,
)
from weightspace.analysis.merging.recipe import Recipe, Source
from weightspace.analysis.merging.select import select
from weightspace.analysis.merging.target import expect_target
from weightspace.analysis.merging.write import SHARD_BYTES
from weightspace.checkpoint import Checkpoint
from weightspace.errors import MergeError, one_line
from weightspace.linalg import one_thread
from weightspace.opening import open as open_anything
from weightspace.symmetry import act


def prepare(recipe: Path | str | Mapping[str, Any] | Recipe, opener: Opener = open_anything) -> Prepared:
    """Open the models of a recipe and plan its merge.

    Args:
        recipe: a YAML file or its text, plain values, or a `Recipe`.
        opener: opens a model by what the recipe calls it.

    Raises:
        MergeError, FormatError, UnknownNameError: no recipe, a model that is not there, an unknown method or parameter. Everything
            else that is wrong stands in the plan's `problems`.
    """
    read = Recipe.read(recipe)
    models = with_vocabularies(open_models(read, opener), read)
    made = plan(read, models.ready, models.stored)
    return Prepared(models, replace(made, problems=(*models.problems, *made.problems), notes=(*models.notes, *made.notes)))


def prepare_given(recipe: Recipe, models: Mapping[str, Checkpoint]) -> Prepared:
    """Plan a merge of models that are at hand, adapters applied, by what the recipe calls them (`model+adapter`).

    Raises:
        MergeError: the recipe brings vocabularies together, which lie beside the models' files.
    """
    if recipe.tokenizer_source or recipe.tokenizer:
        raise MergeError(
            "the recipe brings vocabularies together, for which the models' tokenizers are needed; get the models back with --parent and merge them"
        )
    ready = {source: models[str(source)] for source in recipe.sources}
    return Prepared(Models(ready, ready, ready, {str(source): one for source, one in ready.items()}), plan(recipe, ready))


def merge(
    recipe: Path | str | Mapping[str, Any] | Recipe | Prepared,
    out: str | Path | None = None,
    *,
    opener: Opener = open_anything,
    jobs: int = 1,
    device: str | torch.device = "cpu",
    shard_bytes: int = SHARD_BYTES,
    force: bool = False,
    spec_of: SpecOf | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Checkpoint:
    """Merge models as a recipe says.

    One tensor is worked on at a time, of a large one a run of rows: memory does not grow with the models. Values are combined in
    float32 (float64 where an input or `dtype` is) and rounded once, in one thread for each tensor, so that the result is the same
    bit for bit with any number of `jobs`. A run that was killed goes on at the file in which it was.

    Args:
        recipe: a YAML file or its text, plain values, a `Recipe`, or what `prepare` returned.
        out: a folder, as the Hub has models, or a `.safetensors` file; None for a checkpoint whose tensors are computed when read.
        opener: opens a model by what the recipe calls it.
        jobs: tensors that are worked on at once.
        device: where values are combined.
        shard_bytes: bytes of tensors in a file of a folder, at most.
        force: replace a merge that is there.
        spec_of: finds the names of a model's axes where the recipe aligns; by default by its architecture.
        progress: called after each tensor.

    Returns:
        The merged model, with recipe and parents.

    Raises:
        MergeError: the recipe cannot be carried out; nothing is left under the final name.

    Example:
        >>> import tempfile, torch, weightspace as ws
        >>> folder = Path(tempfile.mkdtemp())
        >>> paths = [str(ws.save({"w": torch.full((2,), value)}, folder / f"{value}.safetensors")) for value in (1.0, 3.0)]
        >>> merge({"merge_method": "linear", "models": paths, "parameters": {"weight": 1}}, folder / "merged.safetensors")["w"]
        tensor([2., 2.])
    """
    prepared = recipe if isinstance(recipe, Prepared) else prepare(recipe, opener)
    plan = prepared.plan.expect_possible()
    target = None if out is None else expect_target(Path(out), prepared, force)
    _keep_slabs()
    with one_thread():
        moved = alignment(plan, prepared.models.ready, spec_of) if plan.recipe.align else {}
        models = {source: act(moved[source], one) if source in moved else one for source, one in prepared.models.ready.items()}
        run = Run(plan, models, gather_evidence(plan, models, opener), _device(device), _ids(prepared) if plan.method.chance else {})
        run.expect_copies()
        if plan.recipe.select is not None:
            run = replace(run, plan=select(run, task_at(plan.recipe.select.task).evaluate, prepared.models.stored))
        result = _repaired(run) if plan.recipe.repair else None
        result = _extracted(run, result or run.lazily()) if plan.recipe.adapter else result
        if target is None:
            return replace(result or run.lazily(), recipe=description(plan), parents=tuple(parents_of(prepared, run).values()))
        if result is not None and result.kind == "adapter":
            return adapter_written(Making(prepared, run, moved, result, target), force)
        return written(Making(prepared, run, moved, result, target), jobs, shard_bytes, force, progress)


def _device(named: str | torch.device) -> torch.device:
    """See that values can be combined there."""
    try:
        found = torch.device(named)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        said = one_line(str(error).split("\n")[0], 120)
        raise MergeError(f"device '{named}' cannot be used ({said}); name one that this machine has, such as cpu") from None
    return found


def _ids(prepared: Prepared) -> dict[Source, str]:
    """What tells inputs apart: the ids of everything that each is made of."""
    ids = {name: checkpoint.id for name, checkpoint in prepared.models.parents.items()}
    return {
        source: ids.get(str(source)) or "+".join(ids[name] for name in (source.model, *source.adapters)) for source in prepared.models.ready
    }


def _repaired(run: Run) -> Checkpoint:
    """The result with its activations mended, in memory: it has to be run."""
    how = run.plan.recipe.repair
    assert how is not None
    lazy = run.lazily()
    step = next(step for step in run.plan.steps if not step.is_copy)
    found = repair_many(task_at(how.task), lazy, [run.models[part.source] for part in step.parts], mode=how.mode)
    return Checkpoint.of(found.state_dict)


def _extracted(run: Run, merged: Checkpoint) -> Checkpoint:
    """The result as an adapter of the base."""
    how, base = run.plan.recipe.adapter, run.plan.recipe.base_model
    assert how is not None and base is not None
    tuned = replace(merged, metadata=run.models[base].metadata)  # whose config says what is tied
    return extract_adapter(run.models[base], tuned, rank=how.rank, alpha=how.alpha, targets=how.targets)


def _keep_slabs() -> None:
    """Show glibc's allocator a large block: it learns from the largest that was freed, and from then on keeps the memory of slabs.

    Otherwise it gives that back and gets it anew, page by page, for every slab.
    """
    torch.empty((1 << 25) - (1 << 16), dtype=torch.uint8)
