"""Generators in files: what is refused, and why."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.analysis.generation.materials import material, tiny
from weightspace import provenance
from weightspace.analysis.generation import WeightGenerator, checkpoint_of_generator, fit, generators, load_generator
from weightspace.errors import GenerationError
from weightspace.formats.safetensors import save


def fitted(name: str) -> WeightGenerator:
    kind = generators[name]
    return fit(name, material(kind), **tiny(kind))


def told_otherwise(made: WeightGenerator, path: Path, **changes: Any) -> Path:
    """A generator's file whose settings somebody changed."""
    recipe = json.loads(json.dumps(made.recipe))
    recipe["settings"] |= changes
    return save({name: tensor.detach() for name, tensor in made.state_dict().items()}, path, provenance.stated(recipe, made.parents))


def test_a_file_may_not_ask_for_more_memory_than_it_holds(tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match=r"ask for [\d,]+ values, but its file holds [\d,]+; fit it again"):
        load_generator(told_otherwise(fitted("flow"), tmp_path / "a.safetensors", hidden=1 << 20))


def test_a_file_may_not_name_code_unless_it_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mischief_of_a_generator.py").write_text("raise SystemExit('ran')\n")
    monkeypatch.chdir(tmp_path)
    path = told_otherwise(fitted("mean"), tmp_path / "a.safetensors", of="mischief_of_a_generator:run")
    with pytest.raises(GenerationError, match="names code, of='mischief_of_a_generator:run'; look at it, and allow it by that name"):
        load_generator(path)


def test_what_is_no_generator_is_refused(tmp_path: Path) -> None:
    made = fitted("mean")
    plain = save({"w": made.state_dict()["networks"]}, tmp_path / "plain.safetensors", {})
    with pytest.raises(GenerationError, match="holds no generator; give a model that 'weightspace generate' fitted"):
        load_generator(plain)
    for changes in ({"of": [1]}, {"unheard": 1}):
        with pytest.raises(GenerationError):
            load_generator(told_otherwise(made, tmp_path / "b.safetensors", **changes))


def test_generators_of_other_settings_are_other_models() -> None:
    kind = generators["noise"]
    one, two = (fit("noise", material(kind), sigma=sigma) for sigma in (0.1, 0.2))
    assert checkpoint_of_generator(one).id != checkpoint_of_generator(two).id
    assert checkpoint_of_generator(one).id != checkpoint_of_generator(fit("mean", material(kind))).id


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 2.5}, "setting 'steps' of generator 'flow' is 2.5; expected a whole number from 0 on"),
        ({"steps": -1}, "is -1; expected a whole number"),
        ({"learning_rate": float("nan")}, "setting 'learning_rate' of generator 'flow' is nan; expected a number"),
        ({"pace": 1}, "generator 'flow' has no setting 'pace'; expected one of: hidden"),
    ],
)
def test_settings_that_are_none_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(GenerationError, match=re.escape(said)):
        fit("flow", material(generators["flow"]), **settings)
