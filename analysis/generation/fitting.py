"""Fitting a generator: built by name, its material aligned or augmented where that is asked for, and told where it comes from."""

from collections.abc import Sequence
from typing import Any

import torch

from weightspace.analysis.generation.alignment import aligned, augmented
from weightspace.analysis.generation.chance import chance
from weightspace.analysis.generation.generator import Kind, Progress, WeightGenerator, generators
from weightspace.analysis.generation.material import Material, expect_finite
from weightspace.analysis.generation.norms import settled
from weightspace.analysis.generation.settings import expect_settings
from weightspace.analysis.generation.target import Target
from weightspace.errors import GenerationError, WeightSpaceError, one_line

UNMAKEABLE = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What making a generator from settings that somebody else wrote can raise."""


def fit(
    name: str,
    material: Material,
    *,
    align: str | None = None,
    augment: int = 0,
    norms: str = "generate",
    generator: torch.Generator | None = None,
    progress: Progress = lambda done, total: None,
    **settings: Any,
) -> WeightGenerator:
    """Fit a generator.

    Args:
        name: of a kind (see `generators`).
        material: what it learns from; it is not changed.
        align: how the networks are aligned before (`reference`, `merge`, `universe`; see `match_many`); None leaves them as they are.
        augment: copies of each network, moved by random elements of the symmetry, that are added.
        norms: what becomes of running statistics: `generate`, `fuse` or `re-estimate` (see `settled`).
        generator: source of chance; see `chance`.
        progress: is told how many steps of how many are done.
        settings: of the kind, by keyword.

    Raises:
        UnknownNameError: no kind, way to align or policy for norms has that name.
        GenerationError: a setting that the kind does not have or that is out of its bounds, or material that it cannot learn from.

    Example:
        >>> from weightspace.analysis.generation.drawing import generate
        >>> from weightspace.metanets import WeightBatch
        >>> from weightspace.spec import SymmetrySpec
        >>> spec = SymmetrySpec.parse({"weight": "h 2"}, sizes={"h": 3})
        >>> networks = WeightBatch.stack([{"weight": torch.ones(3, 2)}, {"weight": torch.zeros(3, 2)}], spec)
        >>> mean = fit("mean", Material(Target.of_networks(networks), networks))
        >>> generate(mean)[0]["weight"][0]
        tensor([0.5000, 0.5000])
    """
    _expect_types(name, material, augment)
    kind, generator = generators[name], chance(generator)
    expect_settings(kind, settings)  # before anything takes long
    _expect(kind, material)
    seed = generator.initial_seed()
    material = material.in_float32()
    if align is not None:
        material = aligned(material, align, generator=generator)
    if augment:
        material = augmented(material, augment, generator=generator)
    material = settled(material, norms, logarithms="tasks" not in kind.learns)
    with torch.random.fork_rng(devices=[]):  # first parameters are drawn from torch's own generator
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        made = make(name, material.target, material.condition_shape, settings)
        made.learn(material, generator=generator, progress=progress)
    made.eval()
    made.parents = material.parents
    made.recipe = {
        "kind": "generator",
        "generator": name,
        "settings": {**kind.settings, **settings},
        "target": material.target.described(),
        "condition_shape": None if material.condition_shape is None else list(material.condition_shape),
        "align": align,
        "augment": augment,
        "norms": norms,
        "seed": seed,
        "networks": 0 if material.networks is None else len(material.networks),
        "like": None if material.like is None else dict(material.like),
    }
    return made


def make(name: str, target: Target, condition_shape: Sequence[int] | None, settings: dict[str, Any]) -> WeightGenerator:
    """Make a generator that is not fitted yet, its parameters drawn from torch's default generator.

    Raises:
        UnknownNameError: no kind has that name.
        GenerationError: it cannot be made with these settings.
    """
    kind = generators[name]
    expect_settings(kind, settings)
    try:
        return kind.make(target, None if condition_shape is None else tuple(condition_shape), **settings)
    except WeightSpaceError:
        raise
    except UNMAKEABLE as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in settings.items()) or "its settings as they are"
        raise GenerationError(
            f"generator '{name}' cannot be made with {one_line(shown, 200)} ({one_line(str(error), 200)}); change the settings"
        ) from error


def _expect_types(name: object, material: object, augment: object) -> None:
    """Refuse what is given in the wrong place."""
    if not isinstance(name, str):
        raise GenerationError(f"the kind of generator is a {type(name).__name__}; name one of: {', '.join(sorted(generators))}")
    if not isinstance(material, Material):
        raise GenerationError(f"the material is a {type(material).__name__}; give Material(Target.of_networks(networks), networks)")
    if not isinstance(augment, int) or isinstance(augment, bool) or augment < 0:
        raise GenerationError(f"augment is {augment!r}; expected how many copies of each network are added, from 0 on")


def _expect(kind: Kind, material: Material) -> None:
    if "networks" in kind.learns and (material.networks is None or not len(material.networks)):
        raise GenerationError(f"generator '{kind.name}' learns from networks, and was given none; give checkpoints of one architecture")
    if "tasks" in kind.learns and not material.tasks:
        raise GenerationError(f"generator '{kind.name}' learns through a task, and was given none; give one with examples to learn from")
    if material.conditions is not None:
        kind.expect_conditions()
        expect_finite(material.conditions)
    if material.networks is not None and not bool(material.networks.is_finite().all()):
        bad = int((~material.networks.is_finite()).sum())
        raise GenerationError(f"{bad} of the {len(material.networks)} networks have weights that are not finite; leave them out")


__all__ = ["fit", "make"]
