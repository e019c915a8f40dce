"""Model folders made by transformers and PEFT, and folders in which only the user can choose."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import weightspace as ws
from weightspace.errors import FormatError


@pytest.fixture(scope="module")
def tiny() -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2, vocab_size=64
    )
    return transformers.LlamaForCausalLM(config)


@pytest.mark.slow
def test_a_transformers_folder_opens_with_its_config(tmp_path: Path, tiny: Any) -> None:
    tiny.save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    torch.save({"state": {}}, tmp_path / "optimizer.pt")
    found = ws.open(tmp_path)
    assert found.path == tmp_path and found.format == "safetensors" and found.kind == "full"
    assert found.metadata["config"]["model_type"] == "llama" and found.metadata["tokenizer"] == ["tokenizer.json"]
    assert found.num_params == sum(p.numel() for p in tiny.parameters())
    for name, tensor in tiny.state_dict().items():
        assert torch.equal(found[name], tensor)


@pytest.mark.slow
def test_a_sharded_transformers_folder_is_the_same_model(tmp_path: Path, tiny: Any) -> None:
    tiny.save_pretrained(tmp_path / "whole")
    tiny.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    whole, shards = ws.open(tmp_path / "whole"), ws.open(tmp_path / "shards")
    assert shards.format == "sharded" and len(shards.files) > 3 and shards.id == whole.id
    assert shards.metadata["config"] == whole.metadata["config"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
def test_a_peft_adapter_opens_as_an_adapter(tmp_path: Path, tiny: Any) -> None:
    import copy

    import peft

    model = peft.get_peft_model(copy.deepcopy(tiny), peft.LoraConfig(r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"]))
    # A path that is there: PEFT would ask the Hub for any other name.
    base = tmp_path / "base"
    tiny.save_pretrained(base)
    model.peft_config["default"].base_model_name_or_path = str(base)
    model.save_pretrained(tmp_path)
    found = ws.open(tmp_path)
    assert found.kind == "adapter" and len(found) == 8
    adapter = found.metadata["adapter"]
    assert (adapter["r"], adapter["lora_alpha"], adapter["base_model_name_or_path"]) == (3, 6, str(base))
    assert sorted(adapter["target_modules"]) == ["q_proj", "v_proj"] and found.metadata["adapter_config"]["peft_type"] == "LORA"
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(found.state_dict(), tmp_path / "adapter_model.bin")
    assert ws.open(tmp_path).kind == "adapter" and ws.open(tmp_path).id == found.id


def test_config_adapter_config_and_tokenizer_are_metadata(tmp_path: Path) -> None:
    save_file({"base_model.model.q.lora_A.weight": np.ones((3, 8), np.float32)}, tmp_path / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["q"], "base_model_name_or_path": "org/base", "bias": "none"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer.json").write_text("{}")
    torch.save({"state": {}}, tmp_path / "optimizer.pt")
    found = ws.open(tmp_path)
    assert found.kind == "adapter" and found.path == tmp_path and found.format == "safetensors"
    assert found.metadata["adapter_config"] == config and found.metadata["tokenizer"] == ["tokenizer.json"]
    assert found.metadata["adapter"] == {name: value for name, value in config.items() if name != "bias"}


def test_one_weights_file_of_any_name_is_enough(tmp_path: Path) -> None:
    np.savez(tmp_path / "anything", w=np.ones(3))
    (tmp_path / "README.md").write_text("about")
    assert list(ws.open(tmp_path)) == ["w"]


def test_safetensors_speak_before_torch_files(tmp_path: Path) -> None:
    torch.save({"old": torch.ones(2)}, tmp_path / "pytorch_model.bin")
    save_file({"new": np.ones(2)}, tmp_path / "model.safetensors")
    assert list(ws.open(tmp_path)) == ["new"]


def test_several_checkpoints_are_for_the_user_to_choose(tmp_path: Path) -> None:
    for number in range(7):
        np.savez(tmp_path / f"epoch{number}", w=np.ones(3))
    with pytest.raises(FormatError) as caught:
        ws.open(tmp_path)
    assert "expected one checkpoint in this folder, found 7 ('epoch0.npz', 'epoch1.npz'" in str(caught.value)
    assert str(caught.value).endswith("…); name one of the files")


def test_a_folder_without_checkpoints_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FormatError, match="a folder without a checkpoint in it"):
        ws.open(tmp_path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "expected a JSON object, found list"),
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ("{" + " " * (9 << 20) + "}", "expected a config of at most 8388608"),
    ],
)
def test_a_bad_config_is_refused(tmp_path: Path, text: str, says: str) -> None:
    save_file({"w": np.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(FormatError, match=says):
        ws.open(tmp_path)


def test_a_damaged_preferred_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(FormatError, match=r"model\.safetensors"):
        ws.open(tmp_path)
