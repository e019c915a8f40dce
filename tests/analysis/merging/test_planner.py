"""Plans: what becomes of each tensor, known from headers alone, with notes on what a user should know."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.merging.small_models import decoder, family
from weightspace.analysis.merging import Plan, Recipe, Source
from weightspace.analysis.merging.layers import place, stacks, stands_first
from weightspace.analysis.merging.planner import plan
from weightspace.checkpoint import Checkpoint
from weightspace.errors import MergeError, UnknownNameError


def planned(recipe: dict[str, Any], **models: dict[str, torch.Tensor]) -> Plan:
    return plan(Recipe.read(recipe), {Source(name): Checkpoint.of(tensors) for name, tensors in models.items()})


def linear(*models: str, **parameters: Any) -> dict[str, Any]:
    return {"merge_method": "linear", "models": list(models), "parameters": {"weight": 1, **parameters}}


def test_a_step_says_what_a_tensor_is_made_of() -> None:
    base, (a, b) = family(2)
    made = planned(
        {"merge_method": "ties", "base_model": "base", "models": ["a", "base", "b"], "parameters": {"weight": [0, 1], "density": 0.5}},
        base=base, a=a, b=b,
    )  # fmt: skip
    step = next(step for step in made.steps if step.name == "layers.1.w")
    assert [str(part.source) for part in step.parts] == ["a", "b"] and step.base is not None and str(step.base.source) == "base"
    assert (step.dtype, step.shape, step.parameters["weight"], step.parameters["density"]) == ("F32", (8, 6), (1.0, 1.0), (0.5, 0.5))
    assert made.problems == () and made.num_bytes == sum(tensor.nbytes for tensor in a.values())
    assert [str(one) for one in made.sources] == ["base", "a", "b"]


def test_layers_stand_in_order_whatever_the_file_has() -> None:
    tensors = {f"h.{at}.w": torch.ones(1, 1) for at in (10, 2, 1, 0)} | {"z": torch.ones(1), "a.w": torch.ones(1)}
    names = [step.name for step in planned(linear("m"), m=tensors).steps]
    assert names == ["a.w", "h.0.w", "h.1.w", "h.2.w", "h.10.w", "z"]


@pytest.mark.parametrize(
    ("name", "stack", "layer", "rest"),
    [
        ("model.layers.3.mlp.weight", "model.layers.", 3, ".mlp.weight"),
        ("0.weight", "", 0, ".weight"),
        ("h.1.experts.2.w", "h.", 1, ".experts.2.w"),
        ("stages.0.blocks.4.w", "stages.", 0, ".blocks.4.w"),
    ],
)
def test_the_first_number_is_the_layer(name: str, stack: str, layer: int, rest: str) -> None:
    found = place(name)
    assert found is not None and (found.stack, found.layer, found.rest, found.name) == (stack, layer, rest, name)


@pytest.mark.parametrize(
    "name", ["weight", "fc1.weight", "layers.3", "layers.03.w", "layers.-1.w", "layers.٣.w", "layers.²", "a.1e3.b", f"l.{'9' * 5000}.w"]
)
def test_other_numbers_are_none(name: str) -> None:
    assert place(name) is None


@given(st.text(max_size=30))
def test_a_place_has_the_name_it_was_found_in(name: str) -> None:
    found = place(name)
    assert found is None or found.name == name
    assert stacks([name]) == ({} if found is None else {found.stack: found.layer + 1})


@pytest.mark.parametrize(
    ("name", "first"),
    [("model.embed_tokens.weight", True), ("transformer.wpe.weight", True), ("cls_token", True), ("patch_embed.proj.weight", True),
     ("model.norm.weight", False), ("lm_head.weight", False), ("ln_f.bias", False)],
)  # fmt: skip
def test_embeddings_stand_first_and_heads_last(name: str, first: bool) -> None:
    assert stands_first(name) is first


def test_a_gradient_runs_over_the_layers_and_begins_outside_of_them() -> None:
    made = planned(linear("m", weight=[1, 2, 3]), m=decoder(5, 0))
    weights = {step.name: step.parameters["weight"][0] for step in made.steps}
    assert [weights[f"model.layers.{at}.mlp.up_proj.weight"] for at in range(5)] == [1, 1.5, 2, 2.5, 3]
    assert {weights[name] for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")} == {1.0}
    alone = planned(linear("m", weight=[1, 2, 3]), m=decoder(1, 0))
    assert next(step for step in alone.steps if "layers.0" in step.name).parameters["weight"] == (3.0,)


def test_every_output_slice_has_a_run_of_its_own() -> None:
    slices = [{"sources": [{"model": "m", "layer_range": one}]} for one in ([0, 2], [1, 4])]
    made = planned({"merge_method": "linear", "slices": slices, "parameters": {"weight": [1, 3]}}, m=decoder(4, 0))
    weights = [step.parameters["weight"][0] for step in made.steps if step.name.endswith("up_proj.weight")]
    assert weights == [1, 3, 1, 2, 3] and made.layers == {"model.layers.": (0, 1, 1, 2, 3)}


def test_parameters_without_effect_are_noted_and_misspelt_ones_refused() -> None:
    base, (a, _) = family(2)
    recipe = {
        "merge_method": "slerp",
        "base_model": "base",
        "models": ["a"],
        "parameters": {"t": 0.5, "normalize": True, "int8_mask": True},
    }
    made = planned(recipe, base=base, a=a)
    assert made.problems == () and [note.split("'")[1] for note in made.notes] == ["normalize", "int8_mask"]
    under = {
        "merge_method": "ties",
        "base_model": "base",
        "models": [{"model": "a", "parameters": {"lambda": 3}}],
        "parameters": {"weight": 1},
    }
    (note,) = planned(under, base=base, a=a).notes
    assert note == "parameter 'lambda' has no effect under a model: it is of the whole merge, give it under parameters"
    with pytest.raises(UnknownNameError, match=r"no parameter of merge method 'slerp' named 'wieght'"):
        planned({**recipe, "parameters": {"t": 0.5, "wieght": 1}}, base=base, a=a)


def test_a_model_that_is_listed_twice_is_noted() -> None:
    made = planned(linear("m", "m"), m=decoder(1, 0))
    assert made.problems == () and made.notes == ("model 'm' is listed 2 times, and counts as often",)


def test_a_buffer_that_a_file_may_lack_is_taken_from_who_has_it() -> None:
    buffer = {"attn.rotary_emb.inv_freq": torch.ones(3)}
    made = planned(linear("a", "b"), a={"w": torch.ones(2)}, b={"w": torch.ones(2), **buffer})
    (step,) = [step for step in made.steps if step.is_copy]
    assert step.name == "attn.rotary_emb.inv_freq" and str(step.parts[0].source) == "b" and made.problems == ()


def test_what_the_place_of_a_tensor_is_filled_from_may_have_none() -> None:
    slices = [{"sources": [{"model": name, "layer_range": [at, at + 1]}]} for at, name in enumerate("ab")]
    a, b = decoder(2, 0), decoder(2, 1)
    made = planned({"merge_method": "passthrough", "slices": slices}, a={**a, "lm_head.bias": torch.ones(10)}, b=b)
    assert made.problems == () and made.notes == ("tensor 'lm_head.bias' is left out: the models that its place is filled from have none",)


def test_problems_are_all_found_and_the_first_is_raised() -> None:
    a, b = decoder(1, 0), decoder(1, 1)
    del b["model.norm.weight"]
    b["lm_head.weight"] = torch.ones(3, 4)
    made = planned(linear("a", "b"), a=a, b=b)
    assert len(made.problems) == 2
    with pytest.raises(MergeError, match=r"\(and 1 more: --dry-run lists them\)$"):
        made.expect_possible()


def test_planning_reads_no_tensor(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    import weightspace as ws

    save_file(decoder(2, 0), tmp_path / "a.safetensors")
    checkpoint = ws.open(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").unlink()
    assert plan(Recipe.read(linear("a")), {Source("a"): checkpoint}).problems == ()


def test_halves_and_quantized_blocks_give_what_holds_them() -> None:
    kinds = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
    for one, other, found in (("BF16", "F16", "F32"), ("BF16", "BF16", "BF16"), ("F16", "F32", "F32"), ("F64", "BF16", "F64")):
        made = planned(linear("a", "b"), a={"w": torch.ones(2, dtype=kinds[one])}, b={"w": torch.ones(2, dtype=kinds[other])})
        assert made.steps[0].dtype == found


def test_an_adapter_keeps_the_vocabulary_of_its_base() -> None:
    base, (a, _) = family(2)
    recipe = {"merge_method": "task_arithmetic", "base_model": "base", "models": ["a"], "parameters": {"weight": 1}}
    made = planned({**recipe, "adapter": 2, "tokenizer_source": "base"}, base=base, a=a)
    assert made.problems == ("the recipe asks for an adapter and for another vocabulary than the base's; leave the tokenizer out",)


def test_what_is_wrong_with_every_tensor_is_said_once() -> None:
    base, (a, _) = family(2)
    recipe = {"merge_method": "ties", "base_model": "base", "models": ["a"], "parameters": {"density": 0.5}}
    [problem] = planned(recipe, base=base, a=a).problems
    assert problem.endswith("merge method 'ties' needs the parameter 'weight'; give it a value")
