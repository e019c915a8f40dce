"""What is done to models before they are merged: each opened once, adapters applied, neurons and vocabularies brought into line."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import weightspace as ws
from tests.analysis.merging.small_models import decoder, write
from tests.analysis.merging.tiny_language_models import write_three
from weightspace.analysis.merging import Recipe, merge, prepare
from weightspace.analysis.merging.prepare import open_models
from weightspace.errors import FormatError, MergeError

NAME = "model.layers.0.self_attn.q_proj"


def adapter(place: Path, **config: Any) -> str:
    """An adapter that adds one to a matrix of a small decoder."""
    place.mkdir()
    up, down = torch.ones(4, 1), torch.ones(1, 4)
    save_file(
        {f"base_model.model.{NAME}.lora_A.weight": down, f"base_model.model.{NAME}.lora_B.weight": up}, place / "adapter_model.safetensors"
    )
    said = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"], **config}
    (place / "adapter_config.json").write_text(json.dumps(said))
    return str(place)


def test_everything_is_opened_once(tmp_path: Path) -> None:
    path = str(write(decoder(1, 0), tmp_path / "a"))
    opened: Counter[str] = Counter()

    def opener(name: str) -> ws.Checkpoint:
        opened[name] += 1
        return ws.open(name)

    lora = adapter(tmp_path / "l")
    recipe = {"merge_method": "linear", "models": [path, f"{path}+{lora}", {"model": path}], "parameters": {"weight": 1}}
    models = open_models(Recipe.read(recipe), opener)
    assert opened == {path: 1, lora: 1} and list(models.parents) == [path, lora]


def test_an_adapter_is_applied_on_the_way(tmp_path: Path) -> None:
    path, lora = str(write(decoder(1, 0), tmp_path / "a")), adapter(tmp_path / "l")
    plain = decoder(1, 0)[f"{NAME}.weight"]
    made = merge({"merge_method": "linear", "models": [f"{path}+{lora}"], "parameters": {"weight": 1}}, tmp_path / "out")
    torch.testing.assert_close(made[f"{NAME}.weight"], plain + 1)
    assert made.parents == (ws.open(path).id, ws.open(lora).id)
    alone = {"merge_method": "task_arithmetic", "base_model": path, "models": [lora], "parameters": {"weight": 2}}
    torch.testing.assert_close(merge(alone, tmp_path / "alone")[f"{NAME}.weight"], plain + 2)


def test_an_adapter_for_a_base_is_an_error(tmp_path: Path) -> None:
    path, lora = str(write(decoder(1, 0), tmp_path / "a")), adapter(tmp_path / "l")
    with pytest.raises(MergeError, match="is an adapter; name the model it belongs to as base_model"):
        prepare({"merge_method": "task_arithmetic", "base_model": lora, "models": [path], "parameters": {"weight": 1}})


def test_alignment_brings_a_reordered_network_home(tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = {"fc1.weight": (16, 6), "fc1.bias": (16,), "fc2.weight": (3, 16), "fc2.bias": (3,)}
    net = {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}
    order = torch.randperm(16, generator=draw)
    moved = {
        "fc1.weight": net["fc1.weight"][order],
        "fc1.bias": net["fc1.bias"][order],
        "fc2.weight": net["fc2.weight"][:, order],
        "fc2.bias": net["fc2.bias"],
    }
    paths = [str(write(one, tmp_path / name)) for one, name in ((net, "a"), (moved, "b"))]
    recipe: dict[str, Any] = {"merge_method": "linear", "models": paths, "parameters": {"weight": 1}, "dtype": "float32"}
    assert not torch.allclose(merge(recipe)["fc1.weight"], net["fc1.weight"])
    for how in ("weight", {"many": True}, {"to": paths[0]}):
        aligned = merge({**recipe, "align": how}, tmp_path / f"out{len(str(how))}")
        for name, tensor in net.items():
            torch.testing.assert_close(aligned[name], tensor, rtol=1e-4, atol=1e-5)


def test_a_common_vocabulary_is_read_in_runs_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weightspace.analysis.merging import execute
    from weightspace.analysis.merging.embeddings import Gathered

    folders = write_three(tmp_path)
    recipe = {
        "merge_method": "linear",
        "models": [str(folders[name]) for name in "abc"],
        "parameters": {"weight": 1},
        "tokenizer_source": "union",
    }
    whole = merge(recipe).state_dict()
    monkeypatch.setattr(execute, "SLAB", 12)

    def refuse(*_: Any) -> None:
        raise AssertionError("read whole")

    monkeypatch.setattr(Gathered, "blocks", refuse)
    for name, tensor in merge(recipe).state_dict().items():
        assert tensor.equal(whole[name])


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="nowhere"):
        prepare({"merge_method": "linear", "models": [str(tmp_path / "nowhere")], "parameters": {"weight": 1}})
