import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.analysis.merging import undo
from weightspace.analysis.merging.recipe import Recipe
from weightspace.analysis.merging.undo import keep_parents, kept, merge_without, undo_folder, unmerge, without
from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError, MergeError, UnknownNameError

NAMES = ("base", "a", "b+lora", "c")


def recipe(**more: object) -> Recipe:
    models = [{"model": name, "parameters": {"weight": 0.1 * at}} for at, name in enumerate(NAMES) if at]
    return Recipe.read({"merge_method": "task_arithmetic", "base_model": "base", "models": models, "keep": "all", **more})


def merge(recipe: Recipe, inputs: Mapping[str, Checkpoint]) -> Checkpoint:
    """Task arithmetic in float32, rounded once: what `merge_without` is given."""
    base, made = inputs[str(recipe.base_model)], {}
    for name, start in base.items():
        total = start.float()
        for one in recipe.slices[0].inputs:
            weight = one.parameters["weight"]
            assert isinstance(weight, float)
            total = total + weight * (inputs[str(one.source)][name].float() - start.float())
        made[name] = total.to(start.dtype)
    return Checkpoint.of(made)


@pytest.fixture
def inputs(generator: torch.Generator) -> dict[str, Checkpoint]:
    base = {"w": torch.randn(20, 30, generator=generator) * 0.02, "b": torch.randn(30, generator=generator)}

    def near(noise: float) -> Checkpoint:
        return Checkpoint.of({name: (one + torch.randn(one.shape, generator=generator) * noise).bfloat16() for name, one in base.items()})

    return {name: near(1e-3 * (name != "base")) for name in NAMES}


def test_every_parent_comes_back(tmp_path: Path, inputs: dict[str, Checkpoint]) -> None:
    merged = ws.open(ws.save(merge(recipe(), inputs), tmp_path / "merged.safetensors"))
    written = keep_parents(merged, recipe(), inputs, tmp_path / "parents")
    assert sorted(path.name for path in (tmp_path / "parents").iterdir()) == [*(f"{at}.difference" for at in range(4)), "kept.json"]
    assert [path.name for path in written] == [f"{at}.difference" for at in range(4)]
    for name in NAMES:
        assert merged.id != inputs[name].id == unmerge(merged, tmp_path / "parents", name).id
    found = kept(tmp_path / "parents")
    assert found.merged == merged.id and found.recipe == recipe() and list(found.files) == list(NAMES)


def test_the_base_alone_is_kept_where_the_recipe_says_so(tmp_path: Path, inputs: dict[str, Checkpoint]) -> None:
    chosen = recipe(keep="base")
    merged = merge(chosen, inputs)
    assert len(keep_parents(merged, chosen, inputs, tmp_path)) == 1
    assert unmerge(merged, tmp_path, "base").id == inputs["base"].id
    with pytest.raises(MergeError, match=r"the merge kept 'base' and not 'a'; write keep: all into its recipe and merge again"):
        unmerge(merged, tmp_path, "a")
    with pytest.raises(UnknownNameError, match=r"no parent of the merge named 'bse'; did you mean 'base'\? \(known: base, a, b\+lora, c\)"):
        unmerge(merged, tmp_path, "bse")
    with pytest.raises(MergeError, match="the merge kept 'base' and not 'b"):
        merge_without(merged, tmp_path, "a", merge)


def test_a_merge_that_keeps_nothing_says_how_to(tmp_path: Path, inputs: dict[str, Checkpoint]) -> None:
    chosen = recipe(keep="none")
    assert keep_parents(merge(chosen, inputs), chosen, inputs, tmp_path / "parents") == ()
    assert not (tmp_path / "parents").exists()
    with pytest.raises(MergeError, match=r"parents: the merge kept none of its parents; write keep: base or keep: all into its recipe"):
        unmerge(merge(chosen, inputs), tmp_path / "parents", "base")


def test_what_was_kept_lies_in_a_folder_or_beside_a_file(tmp_path: Path, inputs: dict[str, Checkpoint]) -> None:
    alone = ws.open(ws.save(inputs["a"], tmp_path / "merged.safetensors"))
    folder = alone.with_source(tmp_path / "merged")
    (tmp_path / "merged").mkdir()
    for result, place in ((alone, tmp_path / "merged.undo"), (folder, tmp_path / "merged" / "undo")):
        with pytest.raises(MergeError, match="kept none of its parents; say keep: base or keep: all in the recipe and merge again"):
            undo_folder(result)
        place.mkdir()
        assert undo_folder(result) == place
    with pytest.raises(MergeError, match="kept none of its parents"):
        undo_folder(inputs["a"])


def test_a_base_that_is_not_named_cannot_be_kept(tmp_path: Path, inputs: dict[str, Checkpoint]) -> None:
    chosen = Recipe.of("linear", ["a", "c"], keep="base")
    with pytest.raises(MergeError, match="says keep: base and names no base_model; name one, or say keep: all"):
        keep_parents(inputs["a"], chosen, inputs, tmp_path)


def test_a_model_is_left_out_as_if_it_had_never_been_there(tmp_path: Path, inputs: dict[str, Checkpoint]) -> None:
    merged = merge(recipe(), inputs)
    keep_parents(merged, recipe(), inputs, tmp_path)
    for name in NAMES[1:]:
        left = {one: checkpoint for one, checkpoint in inputs.items() if one != name}
        expected = merge(without(recipe(), name), left)
        assert merge_without(merged, tmp_path, name, merge).id == expected.id != merged.id


def test_leaving_out_reaches_every_slice() -> None:
    def source(name: str) -> dict[str, object]:
        return {"model": name, "layer_range": [0, 2]}

    said = {"merge_method": "linear", "slices": [{"sources": [source("a"), source("c")]}, {"sources": [source("c")]}]}
    left = without(Recipe.read(said), "a")
    assert [[str(one.source) for one in slice.inputs] for slice in left.slices] == [["c"], ["c"]]
    with pytest.raises(MergeError, match="'c' cannot be left out: it is all that some of the layers are made of; write a recipe"):
        without(Recipe.read(said), "c")


@pytest.mark.parametrize(
    ("more", "name", "reason"),
    [
        ({}, "base", "the base that the others are compared with"),
        ({"align": {"method": "weight", "to": "a"}}, "a", "what the others are aligned to"),
        ({"tokenizer_source": "c"}, "c", "where the tokenizer or its chat template comes from"),
        ({"tokenizer": {"source": "c"}}, "c", "where the tokenizer or its chat template comes from"),
    ],
)
def test_a_model_that_the_others_need_stays(more: dict[str, object], name: str, reason: str) -> None:
    with pytest.raises(MergeError, match=f"'{name}' cannot be left out: it is {reason}; write a recipe without it and merge again"):
        without(recipe(**more), name)
    with pytest.raises(UnknownNameError, match="no parent of the merge named 'd'"):
        without(recipe(**more), "d")


def test_another_result_or_a_damaged_index_is_refused(tmp_path: Path, inputs: dict[str, Checkpoint]) -> None:
    merged = merge(recipe(), inputs)
    keep_parents(merged, recipe(), inputs, tmp_path)
    with pytest.raises(FormatError, match=r"1.difference: was made against model"):
        unmerge(inputs["c"], tmp_path, "a")
    index = tmp_path / undo.INDEX
    said = json.loads(index.read_text())
    for change, expected in (
        ({"version": 7}, r"kept.json: expected version 1, found 7; update weightspace"),
        ({"files": {"a": "../a.difference"}}, "outside its own folder"),
        ({"files": 3}, "kept.json: damaged"),
        ({"recipe": {}}, "names no merge_method"),
    ):
        index.write_text(json.dumps({**said, **change}))
        with pytest.raises((FormatError, MergeError), match=expected):
            unmerge(merged, tmp_path, "a")
    index.write_text("{")
    with pytest.raises(FormatError, match=r"kept.json: its JSON is damaged"):
        kept(tmp_path)


def test_half_a_folder_keeps_nothing(tmp_path: Path, inputs: dict[str, Checkpoint]) -> None:
    merged = merge(recipe(), inputs)
    keep_parents(merged, recipe(), inputs, tmp_path)
    with pytest.raises(KeyError):
        keep_parents(merged, recipe(), {"base": inputs["base"]}, tmp_path)
    with pytest.raises(MergeError, match="kept none of its parents"):
        unmerge(merged, tmp_path, "base")
    (tmp_path / "file").write_text("")
    with pytest.raises(FormatError, match="file: cannot be written"):
        keep_parents(merged, recipe(), inputs, tmp_path / "file")


def test_real_parents_come_back_from_their_mean(tmp_path: Path, real_checkpoints: Path) -> None:
    names = [f"tiny10_cifar10_seed0{at}" for at in (0, 1)]
    inputs = {name: ws.open(real_checkpoints / "drfrankenstein" / f"{name}.pt") for name in names}
    first, second = inputs.values()
    merged = Checkpoint.of({name: (one + second[name]) / 2 if one.is_floating_point() else one for name, one in first.items()})
    keep_parents(merged, Recipe.of("linear", names, keep="all"), inputs, tmp_path)
    for name in names:
        back = unmerge(merged, tmp_path, name)
        assert all(back.raw(tensor) == inputs[name].raw(tensor) for tensor in inputs[name])
