"""Recipes: mergekit's YAML is read as it is, what is read can be written and read again, and slips are named with their place."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from weightspace.analysis.merging import Adapter, Align, Filtered, Input, Module, Recipe, Repair, Slice, Source
from weightspace.errors import MergeError

MERGEKIT = """
merge_method: ties
base_model: org/base
models:
  - model: org/a
    parameters: {weight: 0.6, density: 0.5}
  - model: org/b+org/lora
    parameters:
      weight:
        - {filter: self_attn, value: [0.0, 0.5, 1.0]}
        - {value: 0.4}
      density: {filter: mlp, value: "0.5"}
  - org/c
parameters: {normalize: true, lambda: 1e0, int8_mask: 1}
dtype: float32
out_dtype: torch.bfloat16
tokenizer_source: union
chat_template: auto
"""


def test_mergekits_models_form() -> None:
    read = Recipe.read(MERGEKIT)
    weight = (Filtered((0.0, 0.5, 1.0), "self_attn"), Filtered(0.4))
    assert read == Recipe(
        "ties",
        {
            "": Module(
                (
                    Slice(
                        (
                            Input(Source("org/a"), {"weight": 0.6, "density": 0.5}),
                            Input(Source("org/b", ("org/lora",)), {"weight": weight, "density": (Filtered(0.5, "mlp"),)}),
                            Input(Source("org/c")),
                        )
                    ),
                )
            )
        },
        Source("org/base"),
        {"normalize": True, "lambda": 1.0, "int8_mask": 1},
        "F32",
        "BF16",
        "union",
        chat_template="auto",
    )
    assert [str(one) for one in read.sources] == ["org/base", "org/a", "org/b+org/lora", "org/c"]


def test_mergekits_slices_form() -> None:
    text = """
merge_method: slerp
base_model: a
slices:
  - sources:
      - {model: a, layer_range: [0, 2]}
      - {model: b, layer_range: [1, 3], parameters: {t: 0.1}}
    parameters: {t: [0, 1]}
  - base_model: b
    residual_weight: 0.5
    sources: [{model: a, layer_range: [2, 4]}, {model: b, layer_range: [2, 4]}]
parameters:
  t: [{filter: mlp, value: [1, 0.5]}, {filter: "*", value: 0.25}]
dtype: bfloat16
"""
    first, second = Recipe.read(text).slices
    assert [one.layers for one in first.inputs] == [(0, 2), (1, 3)] and first.parameters == {"t": (0, 1)} and first.base is None
    assert second.base == Source("b") and [one.layers for one in second.inputs] == [(2, 4), (2, 4)]


def test_mergekits_modules_and_long_model_names() -> None:
    text = """
merge_method: linear
modules:
  default:
    models:
      - model: {model: {path: a}, lora: {path: l}}
      - model: {model: b}
    parameters: {weight: 1}
"""
    read = Recipe.read(text)
    assert list(read.modules) == ["default"] and read.modules["default"].parameters == {"weight": 1}
    assert read.sources == (Source("a", ("l",)), Source("b"))


def test_a_plus_in_a_path_that_is_there_is_no_adapter(tmp_path: Path) -> None:
    (tmp_path / "a+b").mkdir()
    assert Recipe.of("linear", [str(tmp_path / "a+b")]).sources == (Source(str(tmp_path / "a+b")),)
    assert Recipe.of("linear", ["x+y+z"]).sources == (Source("x", ("y", "z")),)


def test_our_own_keys() -> None:
    read = Recipe.read(
        {
            "merge_method": "linear",
            "models": ["a"],
            "align": {"method": "activation", "to": "b", "task": "m:f", "many": True, "options": {"restarts": 2}},
            "repair": "m:f",
            "adapter": 8,
            "keep": "all",
            "seed": 3,
            "name": "none",
        }
    )
    assert read.align == Align("activation", Source("b"), None, "m:f", True, {"restarts": 2})
    assert read.repair == Repair("m:f") and read.adapter == Adapter(8) and (read.keep, read.seed, read.name) == ("all", 3, "none")
    assert [str(one) for one in read.sources] == ["b", "a"]
    assert Recipe.read(read.to_dict()) == read
    for short, said in ((True, Align()), (False, None), ("weight", Align()), ({}, Align())):
        assert Recipe.read({"merge_method": "linear", "models": ["a"], "align": short}).align == said


def test_a_recipe_is_read_from_a_file_its_text_or_plain_values(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(MERGEKIT)
    read = Recipe.read(MERGEKIT)
    assert Recipe.read(tmp_path / "r.yaml") == Recipe.read(str(tmp_path / "r.yaml")) == Recipe.read(yaml.safe_load(MERGEKIT)) == read
    assert Recipe.read(read) is read
    assert Recipe.read({"kind": "merge", **read.to_dict()}) == read


def test_equal_recipes_have_one_canonical_form() -> None:
    turned = dict(reversed(yaml.safe_load(MERGEKIT).items()))
    assert Recipe.read(turned).to_json() == Recipe.read(MERGEKIT).to_json()


words = st.text(st.characters(categories=["L", "N"], max_codepoint=0x24F), min_size=1, max_size=6)
names = st.builds("+".join, st.lists(words.map("m{}".format), min_size=1, max_size=2))
scalars = st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | words
values = scalars | st.lists(scalars, min_size=1, max_size=3)
filtered = st.fixed_dictionaries({"value": values}, optional={"filter": words | st.just("*")})
settings = st.dictionaries(words, values | filtered | st.lists(filtered, min_size=1, max_size=2), max_size=2)
models = names | st.fixed_dictionaries({"model": names}, optional={"parameters": settings})


@st.composite
def slices(draw: st.DrawFn) -> dict[str, Any]:
    count = draw(st.integers(1, 4))
    sources = [
        {"model": draw(names), "layer_range": [low, low + count], "parameters": draw(settings)}
        for low in draw(st.lists(st.integers(0, 9), min_size=1, max_size=2))
    ]
    return {"sources": sources, "parameters": draw(settings), **({"base_model": draw(names)} if draw(st.booleans()) else {})}


bodies = st.one_of(
    st.fixed_dictionaries({"models": st.lists(models, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"slices": st.lists(slices(), min_size=1, max_size=2)}),
)
parts = bodies | st.fixed_dictionaries(
    {
        "modules": st.dictionaries(
            words | st.just("") | st.just("default"),
            st.tuples(bodies, settings).map(lambda one: {**one[0], "parameters": one[1]}),
            min_size=1,
        )
    }
)
dtypes = st.sampled_from(["float16", "bfloat16", "float32", "float64", "torch.float16", "F32"])
recipes = st.tuples(
    parts,
    st.fixed_dictionaries(
        {"merge_method": words},
        optional={
            "base_model": names,
            "parameters": settings,
            "dtype": dtypes,
            "out_dtype": dtypes,
            "tokenizer_source": words,
            "chat_template": words,
            "seed": st.integers(),
            "align": st.booleans() | words | st.fixed_dictionaries({"many": st.booleans(), "to": names}),
            "repair": words | st.fixed_dictionaries({"task": words, "mode": st.sampled_from(["repair", "reset"])}),
            "adapter": st.integers(1, 9) | st.fixed_dictionaries({"rank": st.integers(1, 9), "alpha": st.floats(0, 9), "targets": words}),
            "keep": st.sampled_from(["none", "base", "all"]),
            "name": words | st.just("none"),
        },
    ),
).map(lambda pair: {**pair[0], **pair[1]})


@given(recipes)
def test_what_was_read_can_be_written_and_read_again(plain: dict[str, Any]) -> None:
    read = Recipe.read(plain)
    assert Recipe.read(read.to_dict()) == read
    assert Recipe.read(yaml.safe_dump(read.to_dict(), allow_unicode=True)) == read
    assert Recipe.read(read.to_dict()).to_json() == read.to_json()


ONE = {"merge_method": "linear", "models": ["a"]}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"models": ["a"]}, "the recipe names no merge_method; add one, such as merge_method: linear"),
        ({**ONE, "merge_method": 3}, "the recipe, merge_method is 3; expected a word"),
        ({**ONE, "merge_method": " "}, "the recipe, merge_method is ' '; expected a word"),
        ({**ONE, "base": "b"}, "the recipe has the unknown key 'base'"),
        ({**ONE, "models": "a"}, "the recipe, models is 'a'; expected a list"),
        ({**ONE, "models": [{"model": "a", "weight": 1}]}, "the recipe, models[0] has the unknown key 'weight' (known: model, parameters)"),
        ({**ONE, "models": [{"model": "a", "layer_range": [0, 1]}]}, "the recipe, models[0] has the unknown key 'layer_range'"),
        ({**ONE, "models": [3]}, "the recipe, models[0], model is 3; expected a word"),
        ({**ONE, "models": ["+l"]}, "the recipe, models[0], model is '+l'; expected a model, or model+adapter"),
        ({**ONE, "models": [{"model": {"lora": "l"}}]}, "the recipe, models[0], model names no model; write the path of one"),
        (
            {**ONE, "models": [{"model": {"model": {"path": "a", "revision": "r"}}}]},
            "the recipe, models[0], model has the unknown key 'revision'",
        ),
        ({**ONE, "parameters": [1]}, "the recipe, parameters is [1]; expected a mapping of names to values"),
        (
            {**ONE, "parameters": {"weight": [[1]]}},
            "the recipe, parameters.weight is [1]; expected a number, true, false, a word, or a list",
        ),
        ({**ONE, "parameters": {"weight": []}}, "the recipe, parameters.weight is an empty list; give one value, or several as a gradient"),
        (
            {**ONE, "parameters": {"weight": {"filter": "x"}}},
            "the recipe, parameters.weight[0] has a filter and no value; add value: NUMBER",
        ),
        (
            {**ONE, "parameters": {"weight": [{"value": 1}, 2]}},
            "the recipe, parameters.weight[1] is 2; expected a mapping of names to values",
        ),
        ({**ONE, "dtype": "int8"}, "the recipe, dtype is 'int8'; expected float16, bfloat16, float32 or float64"),
        ({**ONE, "out_dtype": 16}, "the recipe, out_dtype is '16'; expected float16, bfloat16, float32 or float64"),
        ({**ONE, "seed": True}, "the recipe, seed is True; expected a whole number"),
        ({**ONE, "keep": "some"}, "the recipe, keep is 'some'; expected one of none, base, all"),
        ({**ONE, "tokenizer": "union"}, "the recipe, tokenizer is 'union'; expected a mapping of names to values"),
        (
            {**ONE, "tokenizer": {"source": "base"}, "tokenizer_source": "base"},
            "the recipe has both tokenizer and tokenizer_source; keep one",
        ),
        ({**ONE, "align": {"with": "b"}}, "the recipe, align has the unknown key 'with'"),
        ({**ONE, "align": {"many": "yes"}}, "the recipe, align.many is 'yes'; expected one of true, false"),
        ({**ONE, "repair": {"task": "m:f", "mode": "undo"}}, "the recipe, repair.mode is 'undo'; expected one of repair, reset"),
        ({**ONE, "adapter": {"rank": 2, "alpha": "big"}}, "the recipe, adapter.alpha is 'big'; expected a number"),
        ({**ONE, "adapter": {}}, "the recipe, adapter.rank is None; expected a whole number"),
        ({**ONE, "slices": [1]}, "the recipe has models and slices; expected exactly one of models, slices and modules"),
        ({"merge_method": "linear", "slices": [1]}, "the recipe, slices[0] is 1; expected a mapping of names to values"),
        (
            {"merge_method": "linear", "slices": [{"sources": [{"model": "a"}]}]},
            "the recipe, slices[0], sources[0]: layer_range is None; expected [first, end] with 0 <= first < end, the end not taken",
        ),
        ({"merge_method": "linear", "modules": ["a"]}, "the recipe, modules is ['a']; expected a mapping of names to values"),
        ({"merge_method": "linear", "modules": {"x": {}}}, "the recipe, modules.x has neither models nor slices; expected one of them"),
        (
            {"merge_method": "linear", "modules": {"x": {"models": ["a"], "slices": ["b"]}}},
            "the recipe, modules.x has both models and slices; expected one of them",
        ),
    ],
)
def test_slips_are_named_with_their_place(given: dict[str, Any], said: str) -> None:
    with pytest.raises(MergeError) as raised:
        Recipe.read(given)
    assert str(raised.value).startswith(said)
    assert str(raised.value).isprintable()


def test_a_recipe_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(MergeError, match=r"empty.yaml holds 0 documents; expected one recipe"):
        Recipe.read(tmp_path / "empty.yaml")
    with pytest.raises(MergeError, match=r"none.yaml cannot be read as a recipe \(No such file or directory\)"):
        Recipe.read(tmp_path / "none.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MergeError, match=r"bytes.yaml cannot be read as a recipe \(not UTF-8 text\)"):
        Recipe.read(tmp_path / "bytes.yaml")
    with pytest.raises(MergeError, match=r"is neither YAML nor JSON"):
        Recipe.read("a: !!python/object/apply:os.system [touch pwned]\n")
