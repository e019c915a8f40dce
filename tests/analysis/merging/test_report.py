"""What is said of a result: signs of a broken merge, the manifest, the card, the config."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.analysis.merging.small_models import StateDict, decoder, family, folder, model, write
from weightspace.analysis.merging import Recipe, merge
from weightspace.analysis.merging.health import Measured, Measuring, warnings
from weightspace.analysis.merging.report import manifest_path
from weightspace.checkpoint import Checkpoint


def said(tmp_path: Path, *models: StateDict, method: str = "linear", base: StateDict | None = None, **parameters: Any) -> dict[str, Any]:
    """The manifest of a merge."""
    paths = [str(write(one, tmp_path / f"m{at}")) for at, one in enumerate(models)]
    recipe: dict[str, Any] = {"merge_method": method, "models": paths, "parameters": {"weight": 1, **parameters}}
    if base is not None:
        recipe["base_model"] = str(write(base, tmp_path / "base"))
    merge(recipe, tmp_path / "out")
    found: dict[str, Any] = json.loads((tmp_path / "out" / "merge.json").read_text())
    return found


def test_averaging_networks_that_were_trained_apart_warns(tmp_path: Path) -> None:
    (line,) = said(tmp_path, model(1), model(2))["warnings"]
    assert "tensors have a norm below 80% of every parent's, first '" in line
    assert line.endswith("align them first (align: weight), or mend with repair")


def test_networks_that_are_tuned_from_one_or_equal_give_no_warning(tmp_path: Path) -> None:
    base, tuned = family(3)
    for name in "abc":
        (tmp_path / name).mkdir()
    assert said(tmp_path / "a", *tuned)["warnings"] == []
    assert said(tmp_path / "b", base, base)["warnings"] == []
    assert said(tmp_path / "c", *tuned, method="ties", base=base, density=0.5)["warnings"] == []


def test_a_sum_that_grows_warns(tmp_path: Path) -> None:
    _, tuned = family(2)
    (line,) = said(tmp_path, *tuned, normalize=False)["warnings"]
    assert "have a norm above 170% of every parent's" in line and line.endswith("lower the weights or lambda, or normalize")


def test_one_model_that_is_scaled_down_was_not_trained_apart(tmp_path: Path) -> None:
    path = str(write(model(1), tmp_path / "a"))
    merge({"merge_method": "passthrough", "models": [{"model": path, "parameters": {"scale": 0.1}}]}, tmp_path / "out")
    assert not any("trained apart" in line for line in json.loads((tmp_path / "out" / "merge.json").read_text())["warnings"])


def test_values_that_are_no_numbers_are_counted_and_named(tmp_path: Path) -> None:
    base, (tuned, _) = family(2)
    tuned["layers.0.b"][:3] = torch.tensor([float("nan"), float("inf"), -float("inf")])
    tuned["temperature"].fill_(float("nan"))
    found = said(tmp_path, base, tuned)
    assert found["warnings"][0].startswith("4 elements of 2 tensors are NaN or infinite, first in 'layers.0.b'")
    assert found["tensors"]["layers.0.b"]["nonfinite"] == 3 and found["tensors"]["layers.0.b"]["norm"] is None


def test_an_overflow_of_the_output_is_seen(tmp_path: Path) -> None:
    path = str(write({"w": torch.full((2, 2), 1e6)}, tmp_path / "a"))
    recipe = {"merge_method": "linear", "models": [path], "parameters": {"weight": 1}, "out_dtype": "float16"}
    merge(recipe, tmp_path / "out")
    assert "4 elements of 1 tensors are NaN or infinite" in (tmp_path / "out" / "README.md").read_text()


def test_norms_and_distances_add_up_over_slabs() -> None:
    made, parts = torch.randn(6, 5), [torch.randn(6, 5), torch.randn(6, 5)]
    measuring = Measuring()
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        measuring.add(made[rows], [part[rows] for part in parts])
    found = measuring.found
    assert found.norm == pytest.approx(float(made.norm()), rel=1e-5) and found.nonfinite == 0
    assert found.norms == pytest.approx([float(part.norm()) for part in parts], rel=1e-5)
    assert found.distances == pytest.approx([float((made - part).norm()) for part in parts], rel=1e-5)


def test_parents_that_are_nothing_make_no_warning() -> None:
    assert list(warnings({"w": Measured(0.0, 0, (0.0, 0.0), (0.0, 0.0))})) == []


def test_a_manifest_says_all_that_is_needed_and_is_the_same_each_time(tmp_path: Path) -> None:
    paths = [str(write(model(at), tmp_path / f"m{at}")) for at in range(2)]
    recipe = {"merge_method": "linear", "models": paths, "parameters": {"weight": 1}, "name": "half & half"}
    made = merge(recipe, tmp_path / "out")
    merge(recipe, tmp_path / "again.safetensors")
    text = manifest_path(tmp_path / "out").read_text()
    assert manifest_path(tmp_path / "again.safetensors").read_text() == text
    found = json.loads(text)
    assert found["id"] == made.id and Recipe.read(found["recipe"]) == Recipe.read(recipe)
    assert found["parents"] == dict(zip(paths, made.parents, strict=True))
    assert {name: one["blake3"] for name, one in found["tensors"].items()} == {name: made.tensor_hashes[name].hex() for name in made}
    assert set(found["versions"]) == {"weightspace", "torch", "numpy", "python"} and found["method"]["paper"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert card == (tmp_path / "again.md").read_text()
    assert "# half & half" in card and made.id in card and "licences" in card
    assert Recipe.read(tmp_path / "out" / "recipe.yaml") == Recipe.read(recipe)


@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_a_config_says_what_was_written(key: str, tmp_path: Path) -> None:
    config = {"_name_or_path": "/somebody/elses/folder", "num_hidden_layers": 2, key: "bfloat16", "hidden_size": 4}
    path = folder(decoder(2, 0), tmp_path / "a", config)
    (path / "generation_config.json").write_text('{"temperature": 0.5}')
    (path / "secret.txt").write_text("not copied")
    made = merge({"merge_method": "linear", "models": [str(path)], "parameters": {"weight": 1}, "out_dtype": "float16"}, tmp_path / "out")
    assert made.metadata["config"] == {"num_hidden_layers": 2, key: "float16", "hidden_size": 4}
    assert made.metadata["generation_config"] == {"temperature": 0.5}
    assert not (tmp_path / "out" / "secret.txt").exists()


def test_the_config_is_that_of_the_base(tmp_path: Path) -> None:
    base, a = (folder(decoder(1, at), tmp_path / name, {"who": name}) for at, name in enumerate(("base", "a")))
    recipe = {"merge_method": "task_arithmetic", "base_model": str(base), "models": [str(a)], "parameters": {"weight": 1}}
    assert merge(recipe, tmp_path / "out").metadata["config"]["who"] == "base"


def _passthrough(*slices: tuple[Path, int, int]) -> dict[str, Any]:
    return {"slices": [{"sources": [{"model": str(path), "layer_range": [first, end]}]} for path, first, end in slices]}


def test_what_a_config_lists_of_each_layer_goes_with_the_layer(tmp_path: Path) -> None:
    types = ["sliding_attention", "full_attention"] * 2
    path = folder(decoder(4, 0), tmp_path / "a", {"num_hidden_layers": 4, "layer_types": types, "eos_token_id": [1, 2, 3, 4]})
    made = merge({"merge_method": "passthrough", **_passthrough((path, 0, 1), (path, 2, 4), (path, 2, 4))}, tmp_path / "out")
    assert made.metadata["config"]["num_hidden_layers"] == 5 and made.metadata["config"]["eos_token_id"] == [1, 2, 3, 4]
    assert made.metadata["config"]["layer_types"] == [types[at] for at in (0, 2, 3, 2, 3)]


@pytest.mark.parametrize(
    ("config", "counts"),
    [
        ({"num_layers": 3, "num_decoder_layers": 3}, {"num_layers": 3, "num_decoder_layers": 2}),
        ({"encoder_layers": 3, "decoder_layers": 3}, {"encoder_layers": 3, "decoder_layers": 2}),
    ],
)
def test_layers_of_a_decoder_are_counted_as_such(config: dict[str, Any], counts: dict[str, Any], tmp_path: Path) -> None:
    tensors = {f"{part}.block.{at}.w": torch.ones(2, 2) for part in ("encoder", "decoder") for at in range(3)}
    path = folder(tensors, tmp_path / "a", config)
    modules = {"encoder.": {"models": [str(path)]}, "decoder.": _passthrough((path, 0, 1), (path, 2, 3))}
    assert merge({"merge_method": "passthrough", "modules": modules}, tmp_path / "out").metadata["config"] == {**counts, "dtype": "float32"}


def test_layers_of_a_part_are_counted_in_its_own_config(tmp_path: Path) -> None:
    tensors = {f"{part}_model.encoder.layers.{at}.w": torch.ones(2, 2) for part in ("text", "vision") for at in range(3)}
    path = folder(tensors, tmp_path / "a", {f"{part}_config": {"num_hidden_layers": 3} for part in ("text", "vision")})
    modules = {"text_model.": {"models": [str(path)]}, "vision_model.": _passthrough((path, 0, 3), (path, 1, 3))}
    config = merge({"merge_method": "passthrough", "modules": modules}, tmp_path / "out").metadata["config"]
    assert [config[f"{part}_config"]["num_hidden_layers"] for part in ("text", "vision")] == [3, 5]


def test_the_result_is_what_its_id_says(tmp_path: Path) -> None:
    path = str(write(model(3), tmp_path / "a"))
    made = merge({"merge_method": "linear", "models": [path], "parameters": {"weight": 1}}, tmp_path / "out", shard_bytes=100)
    assert made.id == Checkpoint.of(model(3)).id == json.loads((tmp_path / "out" / "merge.json").read_text())["id"]
