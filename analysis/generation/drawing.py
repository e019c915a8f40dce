"""Drawing networks from a generator: checkpoints that say what made them, under which condition, from which seed."""

from typing import Any

import torch
from torch import Tensor

from weightspace.analysis.generation.chance import chance
from weightspace.analysis.generation.generator import WeightGenerator, Wish
from weightspace.analysis.generation.material import expect_finite
from weightspace.analysis.generation.norms import expect_positive, measured, unmade
from weightspace.checkpoint import Checkpoint
from weightspace.errors import GenerationError
from weightspace.task import Task


@torch.no_grad()
def sample(
    fitted: WeightGenerator,
    count: int = 1,
    wish: Wish | None = None,
    *,
    generator: torch.Generator | None = None,
    task: Task | None = None,
) -> dict[str, Tensor]:
    """Draw networks as stacked tensors.

    Args:
        fitted: by `fit`.
        count: networks.
        wish: what they should be, where that is not what the generator was fitted on.
        generator: source of chance; see `chance`.
        task: on whose data running statistics are measured, where the generator was fitted with norms='re-estimate'.

    Returns:
        (count, *shape) for each tensor that is made or measured, in the dtype that it has in a network.

    Raises:
        GenerationError: the generator does not take what is wished for, or what it made is not finite.
    """
    expect_types(fitted, count, wish)
    wish = wish or Wish()
    _expect(fitted, count, wish)
    target = wish.target or fitted.target
    made = target.plain(fitted.eval().sample(count, wish, generator=chance(generator)))
    broken = [name for name, tensor in made.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise GenerationError(
            f"tensor '{broken[0]}' came out with values that are not finite; fit the generator with a lower learning rate"
        )
    expect_positive(made)
    if fitted.recipe.get("norms") == "re-estimate" and unmade(target):
        if task is None:
            raise GenerationError("this generator leaves running statistics to be measured; give the task with the data to measure them on")
        made |= measured(target, made, task)
    cast = target.cast({name: tensor.detach() for name, tensor in made.items()})
    narrow = [name for name, tensor in cast.items() if not bool(tensor.float().isfinite().all())]
    if narrow:
        dtype = str(cast[narrow[0]].dtype).removeprefix("torch.")
        raise GenerationError(f"tensor '{narrow[0]}' came out with values beyond {dtype}; fit the generator on networks of a wider dtype")
    return cast


def generate(
    fitted: WeightGenerator,
    count: int = 1,
    wish: Wish | None = None,
    *,
    generator: torch.Generator | None = None,
    parent: str | None = None,
    task: Task | None = None,
) -> list[Checkpoint]:
    """Draw networks as checkpoints with their recipes.

    Args:
        fitted: by `fit`.
        count: networks.
        wish: see `sample`.
        generator: see `sample`; its seed goes into the recipes, so give a new one.
        parent: id of the generator, where it is a model of a catalog; else the networks that it learned from are the parents.
        task: see `sample`.

    Raises:
        GenerationError: see `sample`.
    """
    generator = chance(generator)
    seed = generator.initial_seed()
    made = sample(fitted, count, wish, generator=generator, task=task)
    wish = wish or Wish()
    target = wish.target or fitted.target
    return [
        _checkpoint(
            target.whole({name: tensor[at].clone() for name, tensor in made.items()}), fitted, _told(fitted, wish, seed, at), parent
        )
        for at in range(count)
    ]


def _checkpoint(state: dict[str, Tensor], fitted: WeightGenerator, recipe: dict[str, Any], parent: str | None) -> Checkpoint:
    made = Checkpoint.of(state)
    return Checkpoint(made.info, made.storages, made.format, recipe=recipe, parents=(parent,) if parent is not None else fitted.parents)


def _told(fitted: WeightGenerator, wish: Wish, seed: int, at: int) -> dict[str, Any]:
    """The recipe of one network."""
    condition = wish.condition
    if condition is not None and condition.ndim > len(fitted.condition_shape or ()):
        condition = condition[at]
    return {
        "kind": "generate",
        "generator": fitted.recipe.get("generator"),
        "settings": fitted.recipe.get("settings"),
        "norms": fitted.recipe.get("norms"),
        "seed": seed,
        "at": at,
        "condition": None if condition is None or condition.numel() > 1000 else condition.tolist(),
        "like": fitted.recipe.get("like") if wish.like is None else dict(wish.like),
    }


def expect_types(fitted: object, count: object, wish: object) -> None:
    """Refuse what is given in the wrong place.

    Raises:
        GenerationError: it is no generator, no number of networks, or no wish.
    """
    if not isinstance(fitted, WeightGenerator):
        raise GenerationError(f"the generator is a {type(fitted).__name__}; give what fit or load_generator returned")
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise GenerationError(f"{count!r} networks were asked for; ask for a whole number of them, at least one")
    if not isinstance(wish, Wish | None):
        raise GenerationError(f"the wish is a {type(wish).__name__}; give Wish(condition=...)")


def _expect(fitted: WeightGenerator, count: int, wish: Wish) -> None:
    kind = fitted.family
    if wish.condition is not None:
        shape, expected = tuple(wish.condition.shape), fitted.condition_shape
        if "condition" not in kind.takes or expected is None:
            raise GenerationError(f"generator '{kind.name}' was fitted without conditions; leave the condition out, or fit it with some")
        if shape not in (expected, (count, *expected)):
            raise GenerationError(f"a condition of shape {list(shape)}, expected {list(expected)}, or that for each of {count} networks")
        expect_finite(wish.condition)
    elif fitted.condition_shape is not None:
        raise GenerationError(
            f"generator '{kind.name}' was fitted with conditions of shape {list(fitted.condition_shape)}; give one, Wish(condition)"
        )
    if wish.target is not None and not kind.takes & {"size", "architecture"}:
        raise GenerationError(f"generator '{kind.name}' makes the architecture that it was fitted on alone; leave the target out")


def conditions_of(fitted: WeightGenerator, count: int, wish: Wish) -> Tensor | None:
    """One condition for each network: the wish's, repeated where it is one for all."""
    if wish.condition is None:
        return None
    if wish.condition.ndim > len(fitted.condition_shape or ()):
        return wish.condition
    return wish.condition.expand(count, *wish.condition.shape)


__all__ = ["conditions_of", "expect_types", "generate", "sample"]
