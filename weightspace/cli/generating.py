"""What a generator learns from and is asked for, as a user names it: a query, conditions, hyperparameters."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from weightspace.cli.left_out import LeftOut
from weightspace.cli.networks import Network, networks_of, numbers_in, sound_weights
from weightspace.cli.settings import settings_of
from weightspace.errors import GenerationError, TaskError, WeightSpaceError

if TYPE_CHECKING:
    from torch import Tensor

    from weightspace.analysis.generation import Kind, Material, WeightGenerator, Wish
    from weightspace.checkpoint import Checkpoint
    from weightspace.metanets import WeightBatch, WeightSet
    from weightspace.task import Task
    from weightspace.zoo.zoo import Zoo

ITEM, EXAMPLES = "@item", "@examples"
"""Conditions that are no numbers of the catalog: the datum that a network was fitted to, and examples of each class of its data."""

SHOTS = 5
"""Examples of each class that stand for a data set."""


@dataclass(frozen=True)
class Found:
    """What a query gives a generator.

    Attributes:
        material: to learn from.
        ids: of the networks.
        networks: their weights where they are of one architecture, to compare with; None else.
    """

    material: "Material"
    ids: tuple[str, ...]
    networks: "WeightBatch | None"


def material_of(zoo: "Zoo", where: str | None, kind: "Kind", conditions: Sequence[str], left_out: LeftOut) -> Found:
    """Gather what a generator learns from: the networks of a query, or the tasks that they were trained on.

    Args:
        zoo: with the catalog.
        where: as in `networks_of`.
        kind: of the generator.
        conditions: SQL expressions over the same columns, or `@item` or `@examples` alone.
        left_out: is told of networks that cannot be read.

    Raises:
        GenerationError: the query finds no networks, or several architectures where the generator learns one.
    """
    from weightspace.analysis.generation import Material, Target
    from weightspace.modules import population_recipe
    from weightspace.task import task_like

    asked = {} if _special_in(conditions) else _asked(conditions)
    by_task = "networks" not in kind.learns
    # Asked for nothing in particular, a generator does not learn from what generators made.
    chosen = where or "model_id not in (select model_id from tags where key = 'generated')"
    found = networks_of(zoo, chosen, left_out, asked=asked, needs_module=by_task)
    networks, weights = sound_weights(found, left_out)
    if weights is None:
        left_out.report("networks", is_all=True)
        raise GenerationError("the query finds no networks; widen --where, or look at what there is with: weightspace ls")
    if len(weights.batches) > 1 and "architecture" not in kind.takes:
        raise GenerationError(
            f"the query finds networks of {len(weights.batches)} architectures, and generator '{kind.name}' makes those of one; "
            f"narrow --where{_narrower(networks, weights)}"
        )
    given = _conditions(networks, conditions)
    like = dict(population_recipe(networks[0].checkpoint)) or None
    ids = tuple(one.checkpoint.id for one in networks)
    batch = weights.batches[0] if len(weights.batches) == 1 else None
    first = networks[0]
    if by_task:
        tasks = [_task_of(one) for one in networks]
        one_task = given is None and "architecture" not in kind.takes
        target = Target.of_module(tasks[0].module, first.spec)
        return Found(Material(target, tasks=tasks[:1] if one_task else tasks, conditions=given, like=like), ids, batch)
    assert batch is not None
    target = Target.of_networks(batch, first.checkpoint.state_dict())
    try:
        tasks = [task_like(population_recipe(first.checkpoint), "train")]
    except WeightSpaceError:
        if "tasks" in kind.learns:
            raise
        tasks = []
    return Found(Material(target, batch, tasks, given, ids, like), ids, batch)


def _task_of(network: Network) -> "Task":
    """What a network learned, with the module that all networks like it share, so that their tasks can be run side by side."""
    from weightspace.modules import population_recipe
    from weightspace.task import task_like

    task = task_like(population_recipe(network.checkpoint), "train")
    return task if network.module is None else replace(task, module=network.module)


def _narrower(networks: Sequence[Network], weights: "WeightSet") -> str:
    """How a query of several architectures could find one, the largest: by kind, by its number, or by a hyperparameter such as an activation."""
    from weightspace.modules import population_recipe

    if len({one.checkpoint.kind for one in networks}) > 1:
        return ", first to --where \"kind = 'adapter'\" or to --where \"kind = 'full'\""
    largest = set(max(weights.places, key=len).tolist())
    inside, outside = ([one for at, one in enumerate(networks) if (at in largest) == wanted] for wanted in (True, False))
    number = inside[0].row["architecture_id"]
    if all(one.row["architecture_id"] != number for one in outside):
        return f', as in --where "architecture_id = {number}"'
    told, others = ([population_recipe(one.checkpoint).get("hyperparameters") or {} for one in some] for some in (inside, outside))
    for key, value in told[0].items():
        if type(value) in (int, str) and all(one.get(key) == value for one in told) and all(one.get(key) != value for one in others):
            return f", as in --where \"hyperparameters->>'{key}' = '{value}'\""
    return f", as in --where \"name = '{inside[0].row['name']}'\""


@dataclass(frozen=True)
class Given:
    """The condition that is asked for.

    Attributes:
        condition: its numbers; None for none.
        like: the recipe of the model that stands for it, where a model does.
    """

    condition: "Tensor | None" = None
    like: Mapping[str, Any] | None = None


def condition_given(zoo: "Zoo", conditions: Sequence[str], texts: Sequence[str]) -> Given:
    """A condition as a user writes it: a number for each expression, or a model whose datum or data it is.

    Raises:
        GenerationError: they are not as many, or no numbers; none is given where there are conditions; a condition does not stand alone.
    """
    import torch

    from weightspace.modules import population_recipe

    if not texts and not conditions:
        return Given()
    special = _special_in(conditions)
    if special and len(conditions) > 1:
        raise GenerationError(f"condition '{special[0]}' stands alone; leave the other conditions out")
    if not texts:
        value = "MODEL, the model whose own it is" if special else "NUMBER, a value of that SQL expression"
        value = value if len(conditions) == 1 else "NUMBER once for each of these SQL expressions, in order"
        raise GenerationError(f"networks are made under {', '.join(conditions)}, and none was given; add --given {value}")
    if special:
        if len(texts) != 1:
            raise GenerationError(f"condition {conditions[0]} is that of one model; name it by --given MODEL")
        checkpoint = zoo.checkpoint(texts[0])
        return Given(_special(checkpoint, conditions[0]), population_recipe(checkpoint))
    try:
        numbers = [float(text) for text in texts]
        if not all(map(math.isfinite, numbers)):
            raise ValueError
    except ValueError:
        raise GenerationError(f"expected numbers after --given, found {', '.join(texts)}; give one for each condition, in order") from None
    if len(numbers) != len(conditions):
        said = ", ".join(conditions) or "none"
        raise GenerationError(f"{len(numbers)} values were given for {len(conditions)} conditions ({said}); give one --given for each")
    return Given(torch.tensor(numbers))


def _conditions(networks: Sequence[Network], conditions: Sequence[str]) -> "Tensor | None":
    import torch

    if not conditions:
        return None
    if _special_in(conditions):
        return torch.stack([_special(one.checkpoint, conditions[0]) for one in networks])
    return torch.tensor([numbers_in(networks, f"condition {at}") for at in range(len(conditions))]).T.contiguous()


def _special(checkpoint: "Checkpoint", what: str) -> "Tensor":
    """The datum that a network was fitted to, or examples of each class of its data, (classes, SHOTS, inputs)."""
    import torch

    from weightspace.analysis.generation.latent.set_encoder import few_shots
    from weightspace.task import task_for

    batches = list(task_for(checkpoint, "train").batches)
    inputs, targets = (torch.cat([batch[at] for batch in batches]) for at in (0, 1))
    if what == ITEM:
        if not targets.is_floating_point():
            raise TaskError("condition @item is for networks that were each fitted to one datum, as sirens are; these are classifiers")
        return targets.flatten()
    if targets.is_floating_point():
        raise TaskError("condition @examples is for classifiers; use @item for networks that were each fitted to one datum")
    return few_shots(inputs, targets, range(int(targets.max()) + 1), SHOTS, generator=None)


def wish_for(zoo: "Zoo", fitted: "WeightGenerator", conditions: Sequence[str], given: Given, settings: Sequence[str]) -> "Wish":
    """Wish for networks under a condition, or like those that a generator was fitted on but for some hyperparameters.

    Args:
        zoo: with the networks that it was fitted on.
        fitted: the generator.
        conditions: that it was fitted with.
        given: what is asked for. What is made is taken for a network like the one that stands for it, or of the nearest condition.
        settings: hyperparameters of the population that the networks come from, as `key=value`.

    Raises:
        GenerationError: they come from no population.
        UnknownNameError: it has no such hyperparameter.
    """
    from weightspace.analysis.generation import Target, Wish
    from weightspace.modules import module_builders, task_builders
    from weightspace.tracing import trace

    like = given.like or _nearest(zoo, fitted, conditions, given) or fitted.recipe.get("like") or {}
    if not settings:
        return Wish(given.condition, like=like or None)
    known = like.get("hyperparameters")
    if not isinstance(like.get("name"), str) or like["name"] not in module_builders or not isinstance(known, Mapping):
        raise GenerationError("the networks come from no population, so nothing tells how to build them otherwise; leave --set out")
    recipe = {**like, "hyperparameters": {**known, **settings_of(settings, known, f"population '{like['name']}'")}}
    module = module_builders[like["name"]](recipe).eval()
    inputs = next(iter(task_builders[like["name"]](module, recipe, "test").batches))[0][:2]
    return Wish(given.condition, target=Target.of_module(module, trace(module, inputs)), module=module, like=recipe)


def _nearest(zoo: "Zoo", fitted: "WeightGenerator", conditions: Sequence[str], given: Given) -> Mapping[str, Any] | None:
    """The recipe of the network whose conditions are nearest to the one given, each in units of its spread."""
    from weightspace.analysis.generation.card.baselines import nearest
    from weightspace.modules import population_recipe

    ids = fitted.parents or fitted.recipe.get("taught_by")
    if given.condition is None or not ids or not zoo.catalog.exists() or _special_in(conditions):
        return None
    networks = networks_of(zoo, named(ids), LeftOut(), asked=_asked(conditions))
    if not networks:
        return None
    known = _conditions(networks, conditions)
    assert known is not None
    at = int(nearest(known, given.condition[None])[0])
    return dict(population_recipe(networks[at].checkpoint)) or None


def _special_in(conditions: Sequence[str]) -> list[str]:
    """Those that are no numbers of the catalog."""
    return [one for one in conditions if one in (ITEM, EXAMPLES)]


def _asked(conditions: Sequence[str]) -> dict[str, str]:
    return {f"condition {at}": expression for at, expression in enumerate(conditions)}


def named(ids: Sequence[str]) -> str:
    """The query that finds models by their ids."""
    quoted = ", ".join(f"'{id}'" for id in ids)
    return f"id in ({quoted})"


__all__ = ["EXAMPLES", "ITEM", "Found", "Given", "condition_given", "material_of", "named", "wish_for"]
