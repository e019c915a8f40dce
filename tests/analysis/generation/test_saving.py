"""Generators in files: what is refused, and why."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.analysis.generation.materials import material, tiny
from weightspace import provenance
from weightspace.analysis.generation import WeightGenerator, checkpoint_of_generator, fit, generators, load_generator, sample
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
    made = fitted("flow")
    with pytest.raises(GenerationError, match=r"ask for [\d,]+ values, but its file holds [\d,]+; fit it again"):
        load_generator(told_otherwise(made, tmp_path / "a.safetensors", hidden=16))
    with pytest.raises(GenerationError, match="ask for far more values than its file holds; fit it again"):
        load_generator(told_otherwise(made, tmp_path / "a.safetensors", hidden=1 << 20))


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
    ("name", "changes", "said"),
    [
        ("flow", {"solver_steps": 10**12}, "'solver_steps' of generator 'flow' is 1000000000000; expected a whole number from 1 to 10,000"),
        ("flow", {"blocks": 10**9}, "'blocks' of generator 'flow' is 1000000000; expected a whole number from 0 to 1,000"),
        ("flow", {"blocks": 1000}, "ask for far more values than its file holds; fit it again"),
        ("flow", {"hidden": 10**400}, "'hidden' of generator 'flow' is 1000"),
        ("flow", {"temperature": 1e300}, "'temperature' of generator 'flow' is 1e+300"),
        ("pdiff", {"timesteps": 1 << 40}, "'timesteps' of generator 'pdiff'"),
        ("pdiff", {"sampling_steps": 1 << 40}, "'sampling_steps' of generator 'pdiff'"),
        ("lora", {"noise_steps": 1 << 40}, "'noise_steps' of generator 'lora'"),
        ("neumeta", {"averaged": 1 << 40}, "'averaged' of generator 'neumeta'"),
        ("neumeta", {"depth": 1000}, "ask for far more values than its file holds; fit it again"),
        ("neumeta", {"frequencies": 1 << 40}, "'frequencies' of generator 'neumeta'"),
        ("ghn", {"depth": 1 << 40}, "'depth' of generator 'ghn'"),
        ("chunked", {"chunk": 1 << 24}, "ask for far more values than its file holds"),
        ("hyperrep", {"latent": 1 << 20}, "ask for "),
    ],
)
def test_settings_out_of_all_proportion_are_refused_at_once(name: str, changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path, begun = told_otherwise(fitted(name), tmp_path / "a.safetensors", **changes), time.perf_counter()
    with pytest.raises(GenerationError, match=re.escape(said)) as caught:
        load_generator(path)
    assert time.perf_counter() - begun < 5 and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["recurrent", "ghn", "neumeta", "mean"])
@pytest.mark.parametrize("size", [1 << 40, -3])
def test_networks_out_of_all_proportion_are_refused_at_once(name: str, size: int, tmp_path: Path) -> None:
    made = fitted(name)
    recipe = json.loads(json.dumps(made.recipe))
    recipe["target"]["shapes"][0][1][0] = size
    path = save(
        {name: tensor.detach() for name, tensor in made.state_dict().items()}, tmp_path / "a.safetensors", provenance.stated(recipe, ())
    )
    with pytest.raises(GenerationError, match=r"a network of shape \[.*, and the generator's file holds [\d,]+ values; fit it again"):
        load_generator(path)


def test_a_recipe_may_not_speak_of_what_it_lacks(tmp_path: Path) -> None:
    made = fitted("mean")
    tensors = {name: tensor.detach() for name, tensor in made.state_dict().items()}
    changes: list[tuple[str, Any, str]] = [
        ("aliases", {"tied": "nowhere"}, "a tensor 'nowhere' that it does not make"),
        ("logarithms", ["nowhere"], "a tensor 'nowhere' that it does not make"),
        ("spec", "groups: {h: {size: 1099511627776}}\ntensors: {}\n", r"a neuron group of shape \[1099511627776\]"),
    ]
    for key, value, said in changes:
        recipe = json.loads(json.dumps(made.recipe))
        recipe["target"][key] = value
        with pytest.raises(GenerationError, match=said):
            load_generator(save(tensors, tmp_path / "a.safetensors", provenance.stated(recipe, ())))
    recipe = {**made.recipe, "condition_shape": [1 << 40]}
    with pytest.raises(GenerationError, match="conditions of shape"):
        load_generator(save(tensors, tmp_path / "b.safetensors", provenance.stated(recipe, ())))


def test_a_graph_out_of_all_proportion_is_refused_at_the_draw(tmp_path: Path) -> None:
    made = fitted("ghn")
    kept = {name: tensor.detach() for name, tensor in made.state_dict().items()}
    for changes, said in (
        ({"primitives": torch.zeros(5000, dtype=torch.long)}, "graph has 5,000 nodes, expected 4,096 at most"),
        ({"edges": torch.tensor([[0, 10**6]])}, "speaks of nodes or primitives that there are none of"),
        ({"primitives": kept["primitives"] - 99}, "speaks of nodes or primitives that there are none of"),
    ):
        path = save({**kept, **changes}, tmp_path / "a.safetensors", provenance.stated(made.recipe, made.parents))
        with pytest.raises(GenerationError, match=said):
            sample(load_generator(path))
