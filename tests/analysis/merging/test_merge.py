"""The one function from a recipe to a file: dry or wet, told how far it is, sparing with memory."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import weightspace as ws
from tests.analysis.merging.small_models import decoder, family, folder, write
from weightspace.adapters import apply_adapter
from weightspace.analysis.merging import Progress, Recipe, merge, prepare
from weightspace.analysis.merging.merge import prepare_given
from weightspace.errors import MergeError


def linear(*models: Any, **more: Any) -> dict[str, Any]:
    return {"merge_method": "linear", "models": list(models), "parameters": {"weight": 1}, **more}


def test_a_recipe_may_be_anything_that_says_one(tmp_path: Path) -> None:
    paths = [str(write(one, tmp_path / f"{at}")) for at, one in enumerate(family(2)[1])]
    (tmp_path / "r.yaml").write_text(f"merge_method: linear\nmodels: [{paths[0]}, {paths[1]}]\nparameters: {{weight: 1}}\n")
    ids = {
        merge(one).id
        for one in (
            linear(*paths),
            tmp_path / "r.yaml",
            (tmp_path / "r.yaml").read_text(),
            Recipe.of("linear", paths, parameters={"weight": 1}),
            prepare(linear(*paths)),
        )
    }
    assert len(ids) == 1


def test_models_at_hand_are_merged_by_name(tmp_path: Path) -> None:
    _, tuned = family(2)
    given = {name: ws.Checkpoint.of(one) for name, one in zip("ab", tuned, strict=True)}
    made = merge(prepare_given(Recipe.read(linear("a", "b")), given), tmp_path / "out.safetensors")
    torch.testing.assert_close(made["head.weight"], (tuned[0]["head.weight"] + tuned[1]["head.weight"]) / 2)
    assert made.parents == tuple(one.id for one in given.values())


def test_progress_is_told_after_each_tensor(tmp_path: Path) -> None:
    path = str(write(decoder(2, 0), tmp_path / "a"))
    told: list[Progress] = []
    made = merge(linear(path), tmp_path / "out", progress=told.append)
    assert [one.done for one in told] == list(range(1, len(made) + 1))
    assert told[-1].bytes_done == told[-1].bytes_found == made.num_bytes


def test_preparing_writes_nothing(tmp_path: Path) -> None:
    path = str(write(decoder(2, 0), tmp_path / "a"))
    prepare(linear(path))
    assert [one.name for one in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_merge_may_go_into_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(decoder(1, 0), tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    assert merge(linear("a.safetensors"), "out").id == merge(linear("a.safetensors"), "out.safetensors").id


def test_a_merge_is_an_input_of_the_next(tmp_path: Path) -> None:
    path = str(write(decoder(1, 0), tmp_path / "a"))
    first = merge(linear(path, path), tmp_path / "first", shard_bytes=200)
    second = merge(linear(str(tmp_path / "first")), tmp_path / "second")
    assert second.id == first.id and second.parents == (first.id,)


PEAK = """
import resource, sys, torch
from weightspace.analysis.merging import merge
torch.set_num_threads(1)
merge({"merge_method": "linear", "models": [sys.argv[5]], "parameters": {"weight": 1}}, sys.argv[4] + "/warm.safetensors")
rest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
recipe = {"merge_method": sys.argv[1], "models": [sys.argv[2]], "base_model": sys.argv[3], "parameters": {"weight": 0.5, "density": 0.5}}
merge(recipe, sys.argv[4] + "/out.safetensors")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - rest) // 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("container", ["safetensors", "torch"])
@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_ties"])
def test_memory_stays_within_a_few_slabs_of_one_huge_tensor(method: str, container: str, tmp_path: Path) -> None:
    """A tensor of 256 MB in each of two models."""
    huge = torch.randn(16_000, 4_000)
    paths = [str(write({"w": huge * scale}, tmp_path / f"times{scale}", container)) for scale in (1, 2)]
    small = str(write({"w": torch.ones(4, 4)}, tmp_path / "small"))
    command = [sys.executable, "-c", PEAK, method, *paths, str(tmp_path), small]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)
    assert int(done.stdout) < 100, f"{done.stdout} MB"


def test_an_adapter_of_a_tied_model_moves_its_hidden_head_too(tmp_path: Path) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": True}
    base, tuned = (folder(decoder(1, at, tied=True), tmp_path / name, config) for at, name in enumerate(("base", "tuned")))
    recipe = {"merge_method": "task_arithmetic", "base_model": str(base), "models": [str(tuned)], "parameters": {"weight": 0.5}}
    whole, adapter = merge(recipe, tmp_path / "whole"), merge({**recipe, "adapter": {"rank": 8}}, tmp_path / "adapter")
    assert "base_model.model.lm_head.lora_A.weight" in adapter  # or PEFT would move the embedding alone
    applied = apply_adapter(ws.open(base), adapter)
    torch.testing.assert_close(applied["model.embed_tokens.weight"], whole["model.embed_tokens.weight"])
    assert applied.metadata["config"]["tie_word_embeddings"] is True


def test_a_folder_may_have_dots_in_its_name(tmp_path: Path) -> None:
    path = str(write(decoder(2, 0), tmp_path / "a"))
    merge(linear(path), tmp_path / "Llama-3.1-8B-merged")
    assert (tmp_path / "Llama-3.1-8B-merged" / "merge.json").is_file()


def test_a_link_to_a_merge_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    path = str(write(decoder(2, 0), tmp_path / "a"))
    merge(linear(path), tmp_path / "one")
    (tmp_path / "link").symlink_to("one")
    merge(linear(path), tmp_path / "link", force=True)
    assert (
        sorted(one.name for one in tmp_path.iterdir()) == ["a.safetensors", "link", "one"] and (tmp_path / "one" / "merge.json").is_file()
    )


def test_what_a_method_refuses_is_said_as_it_is_when_a_tensor_is_read(tmp_path: Path) -> None:
    paths = [str(write(one, tmp_path / f"{at}")) for at, one in enumerate(family(2)[1])]
    merged = merge({**linear(*paths), "parameters": {"weight": 0}})
    with pytest.raises(MergeError, match=r"^tensor 'head.weight': the weights \[0.0, 0.0\] sum to 0"):
        merged["head.weight"]
