"""What holds for every registered generator: shapes, chance that comes from one seed, saving, and inputs left as they were."""

import pickle
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.analysis.generation.materials import conditions, material, tiny, wish
from weightspace.analysis.generation import (
    WeightGenerator,
    checkpoint_of_generator,
    fit,
    generate,
    generators,
    load_generator,
    sample,
    save_generator,
)
from weightspace.errors import GenerationError

NAMES = sorted(generators)
DTYPES = [(torch.float64,), (torch.bfloat16,), (torch.float16,), (torch.bfloat16, torch.float64, torch.float32)]
CONDITIONAL = [name for name in NAMES if "condition" in generators[name].takes]


def fitted(name: str, seed: int = 0, conditional: bool = False) -> WeightGenerator:
    kind = generators[name]
    given = conditions() if conditional else None
    return fit(name, material(kind, given), generator=torch.Generator().manual_seed(seed), **tiny(kind))


@cache
def is_conditional(name: str) -> bool:
    """Whether a generator needs conditions: it says so where none are given."""
    try:
        fitted(name)
    except GenerationError as error:
        assert "condition" in str(error), error
        return True
    return False


def drawn(made: WeightGenerator, name: str, seed: int = 0, count: int = 3) -> dict[str, torch.Tensor]:
    condition = torch.tensor([0.5]) if made.condition_shape is not None else None
    return sample(made, count, wish(generators[name], condition), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_a_generator_makes_networks_of_its_target(name: str) -> None:
    made = drawn(fitted(name, conditional=is_conditional(name)), name)
    target = material(generators[name]).target
    assert {key: tuple(tensor.shape) for key, tensor in made.items()} == {key: (3, *shape) for key, shape in target.shapes.items()}
    assert all(tensor.isfinite().all() for tensor in made.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seeds_make_the_same_networks(name: str) -> None:
    needs = is_conditional(name)
    first, again = (fitted(name, conditional=needs) for _ in range(2))
    one, two = drawn(first, name, 1), drawn(again, name, 1)
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", NAMES)
def test_saving_and_loading_changes_nothing(name: str, tmp_path: Path) -> None:
    made = fitted(name, conditional=is_conditional(name))
    loaded = load_generator(save_generator(made, tmp_path / "generator.safetensors"))
    one, two = drawn(made, name), drawn(loaded, name)
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert loaded.recipe == made.recipe and loaded.parents == made.parents
    assert all(torch.equal(drawn(load_generator(checkpoint_of_generator(made)), name)[key], one[key]) for key in one)


@pytest.mark.parametrize("dtypes", DTYPES, ids=lambda dtypes: " and ".join(str(one).removeprefix("torch.") for one in dtypes))
@pytest.mark.parametrize("name", NAMES)
def test_networks_have_the_dtypes_of_those_that_were_learned_from(name: str, dtypes: tuple[torch.dtype, ...], tmp_path: Path) -> None:
    kind = generators[name]
    is_asked = is_conditional(name)
    given = material(kind, conditions() if is_asked else None, dtypes)
    state = given.tasks[0].module.state_dict() if given.networks is None else given.networks.tensors
    expected = {key: state[key].dtype for key in given.target.shapes}
    made = fit(name, given, generator=torch.Generator().manual_seed(0), **tiny(kind))
    asked = wish(kind, torch.tensor([0.5]) if is_asked else None, dtypes[0])
    loaded = load_generator(save_generator(made, tmp_path / "generator.safetensors"))
    one, two = (sample(each, 3, asked, generator=torch.Generator().manual_seed(0)) for each in (made, loaded))
    assert {key: tensor.dtype for key, tensor in one.items()} == expected
    assert all(torch.equal(one[key], tensor) and tensor.dtype == expected[key] for key, tensor in two.items())
    [checkpoint] = generate(made, 1, asked, generator=torch.Generator().manual_seed(0))
    assert {key: checkpoint[key].dtype for key in expected} == expected
    if given.networks is not None:  # in between all is computed in float32
        wide = replace(given, target=replace(given.target, dtypes={}), networks=given.networks.to(torch.float32))
        again = sample(
            fit(name, wide, generator=torch.Generator().manual_seed(0), **tiny(kind)), 3, asked, generator=torch.Generator().manual_seed(0)
        )
        assert all(torch.equal(tensor.to(expected[key]), one[key]) for key, tensor in again.items())


@pytest.mark.parametrize("name", NAMES)
def test_a_generator_can_be_pickled(name: str) -> None:
    made = fitted(name, conditional=is_conditional(name))
    one, two = drawn(made, name), drawn(pickle.loads(pickle.dumps(made)), name)
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", NAMES)
def test_fitting_changes_neither_its_material_nor_the_chance_of_others(name: str) -> None:
    kind = generators[name]
    given = material(kind, conditions() if is_conditional(name) else None)
    before = {} if given.networks is None else {key: tensor.clone() for key, tensor in given.networks.tensors.items()}
    module = {key: tensor.clone() for key, tensor in given.tasks[0].module.state_dict().items()}
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    told: list[tuple[int, int]] = []
    fit(name, given, generator=torch.Generator().manual_seed(0), progress=lambda done, total: told.append((done, total)), **tiny(kind))
    assert torch.equal(torch.rand(2), expected)
    assert given.networks is None or all(torch.equal(given.networks.tensors[key], tensor) for key, tensor in before.items())
    assert all(torch.equal(given.tasks[0].module.state_dict()[key], tensor) for key, tensor in module.items())
    assert all(0 <= done <= total for done, total in told)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_a_condition_changes_what_is_made(name: str) -> None:
    made = fitted(name, conditional=True)
    asked = [wish(generators[name], torch.tensor([value])) for value in (0.0, 1.0)]
    one, two = (sample(made, 2, each, generator=torch.Generator().manual_seed(5)) for each in asked)
    assert any(not torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", CONDITIONAL)
def test_every_network_may_have_a_condition_of_its_own(name: str) -> None:
    made = fitted(name, conditional=True)
    each = sample(made, 2, wish(generators[name], torch.tensor([[0.0], [1.0]])), generator=torch.Generator().manual_seed(5))
    assert all(len(tensor) == 2 for tensor in each.values())


@pytest.mark.parametrize("name", CONDITIONAL)
def test_weights_of_a_condition_can_be_mapped_and_differentiated(name: str) -> None:
    made = fitted(name, conditional=True)
    weights: Any = getattr(made, "weights", None)
    if weights is None:
        pytest.skip(f"generator '{name}' draws, and does not map a condition to weights")
    asked = torch.rand(3, 1)
    mapped = torch.func.vmap(weights, randomness="different")(asked)
    one_by_one = [weights(one) for one in asked]
    for key, tensor in mapped.items():
        torch.testing.assert_close(tensor, torch.stack([one[key] for one in one_by_one]), rtol=1e-4, atol=1e-5)
    gradient = torch.func.grad(lambda one: sum(tensor.square().sum() for tensor in weights(one).values()))(asked[0])
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_made_says_what_made_it(name: str) -> None:
    made = fitted(name, conditional=is_conditional(name))
    condition = torch.tensor([0.5]) if made.condition_shape is not None else None
    [one] = generate(made, 1, wish(generators[name], condition), generator=torch.Generator().manual_seed(7))
    assert one.recipe is not None
    assert one.recipe["generator"] == name and one.recipe["seed"] == 7
    assert one.parents == made.parents != ()


@pytest.mark.parametrize("name", NAMES)
def test_a_generator_has_a_line_of_help_and_a_source(name: str) -> None:
    kind = generators[name]
    assert kind.summary.endswith(".")
    assert "arXiv" in kind.reference, "say where it is published, with the arXiv id"
