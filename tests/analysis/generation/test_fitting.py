"""What is given to fit, sample and the card in the wrong place is named in one line."""

import math
import subprocess
import sys

import pytest
import torch

from tests.analysis.generation.materials import conditions, material, tiny
from weightspace.analysis.generation import Material, Wish, fit, generators, sample
from weightspace.errors import GenerationError

# In a process of its own: here the checks of types that tests run under would speak first.
WRONG = """
import torch
from tests.analysis.generation.materials import material, task
from weightspace.analysis.generation import Wish, evaluation_card, fit, generate, generators, sample
from weightspace.errors import WeightSpaceError

given = material(generators["mean"])
mean = fit("mean", given)
for wrong in (
    lambda: fit(["mean"], given),
    lambda: fit("mean", [given]),
    lambda: fit("mean", given, generator=3),
    lambda: fit("mean", given, augment=1.5),
    lambda: fit("mean", given, augment="two"),
    lambda: sample("mean"),
    lambda: sample(mean, 2.0),
    lambda: sample(mean, True),
    lambda: generate(mean, "3"),
    lambda: generate(mean, 1, torch.zeros(1)),
    lambda: evaluation_card("mean", given, validation=task(), test=task()),
):
    try:
        wrong()
    except WeightSpaceError as error:
        print(type(error).__name__, error)
"""
SAID = """
GenerationError the kind of generator is a list; name one of: chunked, d2nwg,
GenerationError the material is a list; give Material(Target.of_networks(networks), networks)
GenerationError generator=3 is no source of chance; give torch.Generator().manual_seed(SEED)
GenerationError augment is 1.5; expected how many copies of each network are added, from 0 on
GenerationError augment is 'two'; expected how many copies
GenerationError the generator is a str; give what fit or load_generator returned
GenerationError 2.0 networks were asked for; ask for a whole number of them, at least one
GenerationError True networks were asked for
GenerationError '3' networks were asked for
GenerationError the wish is a Tensor; give Wish(condition=...)
GenerationError the generator is a str; give what fit or load_generator returned
"""


def test_what_is_given_in_the_wrong_place_is_named() -> None:
    done = subprocess.run([sys.executable, "-c", WRONG], capture_output=True, text=True, check=True)
    said, expected = done.stdout.strip().splitlines(), SAID.strip().splitlines()
    assert len(said) == len(expected)
    assert all(line.startswith(begin) for line, begin in zip(said, expected, strict=True)), done.stdout


def test_fewer_copies_than_none_are_refused() -> None:
    with pytest.raises(GenerationError, match="augment is -1; expected how many copies of each network are added, from 0 on"):
        fit("mean", material(generators["mean"]), augment=-1)
    with pytest.raises(GenerationError, match="0 networks were asked for; ask for a whole number of them, at least one"):
        sample(fit("mean", material(generators["mean"])), 0)


def test_what_learns_from_tasks_alone_cannot_be_aligned() -> None:
    given = Material(material(generators["mlp"]).target, tasks=material(generators["mlp"]).tasks)
    with pytest.raises(GenerationError, match="no networks were given that could be aligned; give some, or leave it out"):
        fit("mlp", given, align="reference", steps=1)


@pytest.mark.parametrize("name", sorted(name for name, kind in generators.items() if "condition" in kind.takes))
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_conditions_are_numbers_at_fit_and_at_draw(name: str, value: float) -> None:
    kind, given = generators[name], conditions()
    given[3] = value
    with pytest.raises(GenerationError, match="a condition holds values that are not finite; leave it out, or give numbers"):
        fit(name, material(kind, given), **tiny(kind))
    made = fit(name, material(kind, conditions()), **tiny(kind))
    with pytest.raises(GenerationError, match="a condition holds values that are not finite; leave it out, or give numbers"):
        sample(made, 1, Wish(torch.tensor([value])))
