"""Settings: who is asked first, which filter fits, and what a gradient is at a depth."""

from typing import Any

import pytest

from weightspace.analysis.merging import Recipe, methods
from weightspace.analysis.merging.recipe import Filtered
from weightspace.analysis.merging.settings import evidence_of, parameters_of, setting_at
from weightspace.errors import MergeError


@pytest.mark.parametrize(
    ("setting", "name", "t", "found"),
    [
        (0.5, "w", 0.3, 0.5),
        ((0.0, 1.0), "w", 0.25, 0.25),
        ((0.0, 0.5, 0.3, 0.7, 1.0), "w", 1 / 3, 13 / 30),
        ((0.0, 0.5, 0.3, 0.7, 1.0), "w", 1.0, 1.0),
        ((7.0,), "w", 0.9, 7.0),
        ((True, False), "w", 0.99, True),
        ((True, False), "w", 1.0, False),
        (("a", "b", "c"), "w", 0.5, "b"),
        ((Filtered(1.0, "attn"), Filtered(2.0)), "x.attn.w", 0.0, 1.0),
        ((Filtered(1.0, "attn"), Filtered(2.0)), "x.mlp.w", 0.0, 2.0),
        ((Filtered(1.0, "attn"), Filtered(2.0, "x")), "x.attn.w", 0.0, 1.0),
        ((Filtered(1.0, "*"), Filtered(2.0, "x")), "x.attn.w", 0.0, 1.0),
        ((Filtered((0.0, 1.0), "attn"),), "x.attn.w", 0.5, 0.5),
        ((Filtered(1.0, "attn"),), "x.mlp.w", 0.0, None),
    ],
)
def test_a_setting_has_one_value_for_a_tensor(setting: Any, name: str, t: float, found: Any) -> None:
    assert setting_at(setting, name, t) == (pytest.approx(found) if isinstance(found, float) else found)


def values(recipe: dict[str, Any], tensor: str = "layers.0.w", t: float = 0.0, at: str | None = None) -> dict[str, Any]:
    """What a method's parameters are for one tensor; `at` is its name in the inputs."""
    read = Recipe.read(recipe)
    module = next(iter(read.modules.values()))
    names = {place: at or tensor for place in range(len(module.slices[0].inputs))}
    return parameters_of(methods[read.merge_method], read, module, module.slices[0], tensor, t, names)


def test_what_stands_nearest_goes_first() -> None:
    def weight(of_input: Any, of_slice: Any, of_module: Any, of_all: Any) -> Any:
        def said(value: Any) -> dict[str, Any]:
            return {} if value is None else {"weight": value}

        slice = {"sources": [{"model": "a", "layer_range": [0, 1], "parameters": said(of_input)}], "parameters": said(of_slice)}
        modules = {"default": {"slices": [slice], "parameters": said(of_module)}}
        return values({"merge_method": "linear", "modules": modules, "parameters": said(of_all)})["weight"]

    assert weight(1, 2, 3, 4) == (1.0,)
    assert weight(None, 2, 3, 4) == (2.0,)
    assert weight(None, None, 3, 4) == (3.0,)
    assert weight(None, None, None, 4) == (4.0,)
    assert weight([{"filter": "attn", "value": 1}], None, None, 4) == (4.0,)


def test_a_filter_of_a_model_sees_the_name_there_and_one_of_the_recipe_the_name_in_the_result() -> None:
    recipe = {
        "merge_method": "ties",
        "base_model": "b",
        "models": [{"model": "a", "parameters": {"weight": [{"filter": "layers.3.", "value": 1}, {"value": 2}]}}],
        "parameters": {"lambda": [{"filter": "layers.0.", "value": 3}, {"value": 4}], "density": 1},
    }
    found = values(recipe, "layers.0.w", at="layers.3.w")
    assert found["weight"] == (1.0,) and found["lambda_"] == 3.0


def test_words_become_what_the_parameter_is() -> None:
    recipe = {
        "merge_method": "ties",
        "base_model": "b",
        "models": ["a"],
        "parameters": {"weight": "0.5", "normalize": "false", "lambda": "1e-1"},
    }
    found = values(recipe)
    assert found["weight"] == (0.5,) and found["normalize"] is False and found["lambda_"] == 0.1
    assert values({**recipe, "parameters": {"weight": 1, "normalize": 0}})["normalize"] is False
    assert values({"merge_method": "karcher", "models": ["a"], "parameters": {"max_iter": 3.0}})["max_iter"] == 3


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"merge_method": "linear", "models": ["a"]}, "model 'a', tensor 'layers.0.w': merge method 'linear' needs the parameter 'weight'"),
        (
            {"merge_method": "slerp", "base_model": "b", "models": ["a"]},
            "tensor 'layers.0.w': merge method 'slerp' needs the parameter 't'",
        ),
        (
            {"merge_method": "karcher", "models": ["a"], "parameters": {"max_iter": 2.5}},
            "tensor 'layers.0.w': parameter 'max_iter' is 2.5; expected a whole number",
        ),
        (
            {"merge_method": "linear", "models": ["a"], "parameters": {"weight": 1, "normalize": "maybe"}},
            "tensor 'layers.0.w': parameter 'normalize' is 'maybe'; expected true or false",
        ),
        (
            {"merge_method": "linear", "models": ["a"], "parameters": {"weight": "nan"}},
            "tensor 'layers.0.w': parameter 'weight' is 'nan'; expected a number",
        ),
        (
            {"merge_method": "linear", "models": ["a"], "parameters": {"weight": True}},
            "tensor 'layers.0.w': parameter 'weight' is True; expected a number",
        ),
    ],
)
def test_a_value_that_is_none_is_said(recipe: dict[str, Any], said: str) -> None:
    with pytest.raises(MergeError) as raised:
        values(recipe)
    assert str(raised.value).startswith(said)


def test_evidence_is_a_place() -> None:
    recipe = Recipe.read(
        {"merge_method": "fisher", "models": [{"model": "a", "parameters": {"fisher": "f"}}, "b"], "parameters": {"fisher": "g"}}
    )
    module = recipe.modules[""]
    assert [evidence_of(recipe, module, module.slices[0], "fisher", at) for at in range(2)] == ["f", "g"]
    assert evidence_of(recipe, module, module.slices[0], "gram", 0) is None
