"""Generators and the networks they make, kept in the catalog with what made them and how well they do."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightspace.cli.evaluation import values_of
from weightspace.cli.generating import Found, material_of, named
from weightspace.cli.left_out import LeftOut
from weightspace.errors import GenerationError, TaskError

if TYPE_CHECKING:
    from weightspace.analysis.generation import WeightGenerator, Wish
    from weightspace.checkpoint import Checkpoint
    from weightspace.task import Task
    from weightspace.zoo.zoo import Zoo

MOST_PARENTS = 1000
"""Networks that a generator learned from and that its recipe names; of more, the first."""


@dataclass(frozen=True)
class Kept:
    """A generator of the catalog.

    Attributes:
        fitted: the generator.
        id: of the model that it is in the catalog.
        name: there.
        conditions: what networks are made under, as `--condition` named it.
        found: what it was fitted on; None for one that was fitted before.
        seconds: that fitting took, if it was done now.
    """

    fitted: "WeightGenerator"
    id: str
    name: str
    conditions: tuple[str, ...]
    found: Found | None = None
    seconds: float | None = None


def fit_and_keep(
    zoo: "Zoo",
    kind: str,
    found: Found,
    conditions: Sequence[str],
    name: str | None,
    seed: int,
    progress: Callable[[int, int], None],
    **options: Any,
) -> Kept:
    """Fit a generator and put it into the catalog.

    Args:
        zoo: where it is kept.
        kind: of the generator.
        found: what it learns from.
        conditions: as they were named.
        name: in the catalog; by default the kind with a digest.
        seed: of everything that is left to chance.
        progress: is told how many steps of how many are done.
        options: of `weightspace.analysis.generation.fit`.
    """
    import torch

    from weightspace.analysis.generation import checkpoint_of_generator, fit

    begun = time.perf_counter()
    fitted = fit(kind, found.material, generator=torch.Generator().manual_seed(seed), progress=progress, **options)
    seconds = time.perf_counter() - begun
    fitted.recipe = {**fitted.recipe, "conditions": list(conditions), "taught_by": list(found.ids[:MOST_PARENTS])}
    if name is not None:  # a name of its own makes it a model of its own, even where an equal one has another
        fitted.recipe = {**fitted.recipe, "name": name}
    checkpoint = checkpoint_of_generator(fitted)
    title = name or f"{kind}-{checkpoint.id[:6]}"
    id = zoo.add(checkpoint, title, recipe=fitted.recipe, parents=fitted.parents[:MOST_PARENTS], tags={"generator": kind})
    return Kept(fitted, id, _names(zoo, [id])[id], tuple(conditions), found, seconds)


def opened(zoo: "Zoo", model: str, allow: Sequence[str] = ()) -> Kept:
    """Open a generator of the catalog, or one in a file.

    Args:
        zoo: with the catalog.
        model: a name, the first digits of an id, or a path.
        allow: code that it may run.

    Raises:
        GenerationError: it is none.
    """
    from weightspace.analysis.generation import load_generator

    checkpoint = zoo.checkpoint(model)
    fitted = load_generator(checkpoint, allow=allow)
    return Kept(fitted, checkpoint.id, model, tuple(fitted.recipe.get("conditions") or ()))


def make(zoo: "Zoo", kept: Kept, count: int, wish: "Wish", seed: int, judge: "Task | Callable[..., Any] | None") -> list[dict[str, Any]]:
    """Draw networks, judge them, and put them into the catalog.

    Args:
        zoo: where they are kept.
        kept: the generator.
        count: networks.
        wish: what they should be.
        seed: of the draw.
        judge: what they are judged by; by default the task of the population that the generator learned from, where there is one.

    Returns:
        Of each its name and id, and what it is worth.
    """
    import torch

    from weightspace.analysis.generation import generate
    from weightspace.zoo.zoo import Added

    parent = kept.id if zoo.catalog.exists() and _names(zoo, [kept.id]) else None
    task = _training(kept, wish) if kept.fitted.recipe.get("norms") == "re-estimate" else None
    made = generate(kept.fitted, count, wish, generator=torch.Generator().manual_seed(seed), parent=parent, task=task)
    values = [_values(judge, one) for one in made]
    names = [f"{kept.name}/{seed}-{at}" for at in range(count)]
    kind = str(kept.fitted.recipe["generator"])
    ids = zoo.add_many(
        [
            Added(one, name, recipe=one.recipe, parents=one.parents if parent else (), metrics={"test": found}, tags={"generated": kind})
            for one, name, found in zip(made, names, values, strict=True)
        ]
    )
    known = _names(zoo, ids)  # the same weights may be there by another name
    return [{"model": known[id], "id": id, **found} for id, found in zip(ids, values, strict=True)]


def _training(kept: Kept, wish: "Wish") -> "Task | None":
    """The examples that networks like those that are made learned from, where their population says."""
    from weightspace.task import task_like

    try:
        return task_like(wish.like or kept.fitted.recipe.get("like") or {}, "train")
    except TaskError:
        return None


def _names(zoo: "Zoo", ids: Sequence[str]) -> dict[str, str]:
    """The names that models have in the catalog, by their ids; none for those that are not there."""
    quoted = ", ".join(f"unhex('{id}')" for id in ids)
    return {row["id"]: row["name"] for row in zoo.sql(f"select lower(hex(id)) as id, name from models where id in ({quoted})").to_pylist()}


def _values(judge: "Task | Callable[..., Any] | None", made: "Checkpoint") -> dict[str, float]:
    """What a network is worth; nothing where nothing is known to judge it by."""
    from weightspace.task import task_for

    if judge is None:
        try:
            judge = task_for(made)
        except TaskError:
            return {}
    return {name: value for name, value in values_of(judge, made).items() if math.isfinite(value)}


def card_task(judge: "Task | Callable[..., Any] | None", like: Mapping[str, Any]) -> "Task":
    """What the networks of a card are judged by; to be asked for before anything takes long.

    Args:
        judge: as the user named it.
        like: the recipe of such a network, whose population may know.

    Raises:
        TaskError: nothing is known to judge by, or what was named is no task.
    """
    from weightspace.task import Task, task_like

    if judge is None:
        try:
            return task_like(like)
        except TaskError:
            raise TaskError(
                "nothing is known to judge these networks by, so there can be no card; name a function that returns a Task, "
                "--eval module:function, or leave --card out"
            ) from None
    if not isinstance(judge, Task):
        raise TaskError("the card looks at every prediction, so it needs a Task; name a function without arguments that returns one")
    return judge


def write_card(
    zoo: "Zoo",
    kept: Kept,
    wish: "Wish",
    judge: "Task | Callable[..., Any] | None",
    file: Path,
    seed: int,
    progress: Callable[[int, int], None],
) -> str:
    """Judge a generator beside the baselines that embarrass it: a page, the same as JSON beside it, the numbers in the catalog.

    Args:
        zoo: with the networks that it learned from.
        kept: the generator.
        wish: what is asked of it; where it says nothing, conditions are drawn from those it was fitted with.
        judge: a task; by default that of the population that the generator learned from. Half of its examples choose the baselines'
            settings, the other half judges.
        file: the page to write.
        seed: of everything that is left to chance.
        progress: is told how many rows are done, and of how many.

    Returns:
        The verdict.

    Raises:
        TaskError: nothing is known to judge by, or what was named is no task.
    """
    import torch

    from weightspace.analysis.generation import evaluation_card, page
    from weightspace.task import halves

    found = kept.found or _found_again(zoo, kept)
    like = kept.fitted.recipe.get("like") or {}
    # At another size the card itself cuts the task to it; a condition may have a task of its own.
    task = card_task(judge, wish.like or like if wish.target is None else like)
    validation, test = halves(task)
    generator = torch.Generator().manual_seed(seed)
    card = evaluation_card(
        kept.fitted,
        found.material,
        validation=validation,
        test=test,
        wish=wish,
        zoo=found.networks if found.material.networks is None else None,
        generator=generator,
        fitting_seconds=kept.seconds,
        progress=progress,
    )
    file.write_text(page(card), "utf-8")
    file.with_suffix(".json").write_text(card.to_json(), "utf-8")
    if zoo.catalog.exists() and _names(zoo, [kept.id]):
        zoo.record(kept.id, metrics={"card": card.values()})
    return card.verdict


def _found_again(zoo: "Zoo", kept: Kept) -> Found:
    """What a generator was fitted on, by the ids that it names.

    Raises:
        GenerationError: the networks are not in the catalog.
    """
    from weightspace.analysis.generation import generators

    ids = kept.fitted.recipe.get("taught_by") or kept.fitted.parents
    if not ids:
        raise GenerationError("the generator does not say which networks it was fitted on; fit it again to have a card")
    return material_of(zoo, named(ids), generators[str(kept.fitted.recipe["generator"])], kept.conditions, LeftOut())
