import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace.adapters import delta, read_adapter
from weightspace.adapters.keys import key_of
from weightspace.checkpoint import Checkpoint
from weightspace.errors import FormatError, UnknownNameError


def drawn(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size)))


def peft(config: dict[str, Any] | None = None, **more: Tensor) -> Checkpoint:
    """One dense update of rank 2 under PEFT's names."""
    tensors = {"base_model.model.fc.lora_A.weight": drawn(2, 6), "base_model.model.fc.lora_B.weight": drawn(4, 2), **more}
    return Checkpoint.of(tensors, kind="adapter", metadata={} if config is None else {"adapter_config": {"r": 2, **config}})


@pytest.mark.parametrize(
    ("a", "b", "target", "scale"),
    [
        ("lora_unet_mid_block_attn.lora_down.weight", "lora_unet_mid_block_attn.lora_up.weight", "unet.mid_block_attn.weight", 1),
        ("lora_te1_text_model_fc1.lora_down.weight", "lora_te1_text_model_fc1.lora_up.weight", "te1.text_model_fc1.weight", 1),
        ("unet.mid.to_q.lora.down.weight", "unet.mid.to_q.lora.up.weight", "unet.mid.to_q.weight", 1),
        ("unet.mid.processor.to_q_lora.down.weight", "unet.mid.processor.to_q_lora.up.weight", "unet.mid.to_q.weight", 1),
        ("mid.processor.to_out_lora.down.weight", "mid.processor.to_out_lora.up.weight", "mid.to_out.0.weight", 1),
        ("text_encoder.a.lora_linear_layer.down.weight", "text_encoder.a.lora_linear_layer.up.weight", "text_encoder.a.weight", 1),
        ("unet.mid.to_q.lora_A.weight", "unet.mid.to_q.lora_B.weight", "unet.mid.to_q.weight", 1),
        ("unet:3:down", "unet:3:up", "unet:3", 1),
        ("layers.0.q.lora_A", "layers.0.q.lora_B", "layers.0.q.weight", 8),
        ("base_model.model.q.lora_A.default.weight", "base_model.model.q.lora_B.default.weight", "q.weight", 8),
    ],
)
def test_names_of_every_library(a: str, b: str, target: str, scale: float) -> None:
    tensors = {a: drawn(2, 6), b: drawn(4, 2)}
    adapter = read_adapter(Checkpoint.of(tensors, kind="adapter"), alpha=16.0 if scale == 8 else None)
    assert list(adapter) == [target] and adapter[target].scale == scale
    assert torch.allclose(delta(adapter, target), scale * tensors[b] @ tensors[a], atol=1e-6)


@pytest.mark.parametrize("name", ["lora_unet_mid", "unet.mid.to_q"])
def test_an_alpha_in_the_file_is_divided_by_the_rank(name: str) -> None:
    factors = {
        f"{name}.lora_down.weight": drawn(4, 3, 3, 3),
        f"{name}.lora_up.weight": drawn(5, 4, 1, 1),
        f"{name}.alpha": torch.tensor(2.0),
    }
    (update,) = read_adapter(Checkpoint.of(factors, kind="adapter")).values()
    assert (update.scale, update.shape, update.rank) == (0.5, (5, 3, 3, 3), 4)


def test_what_diffusers_keeps_in_the_file_is_the_config() -> None:
    config = {"unet.r": 2, "unet.lora_alpha": 6, "unet.use_rslora": True}
    tensors = {"unet.q.lora_A.weight": drawn(2, 6), "unet.q.lora_B.weight": drawn(4, 2)}
    adapter = read_adapter(Checkpoint.of(tensors, kind="adapter", metadata={"lora_adapter_metadata": json.dumps(config)}))
    assert adapter["unet.q.weight"].scale == pytest.approx(6 / math.sqrt(2))
    damaged = read_adapter(Checkpoint.of(tensors, kind="adapter", metadata={"lora_adapter_metadata": "{"}))
    assert damaged["unet.q.weight"].scale == 1


def test_two_parts_of_a_pipeline_may_have_one_name() -> None:
    tensors = {f"{part}.q.lora_{one}.weight": drawn(2, 2) for part in ("text_encoder", "text_encoder_2") for one in "AB"}
    assert list(read_adapter(Checkpoint.of(tensors, kind="adapter"))) == ["text_encoder.q.weight", "text_encoder_2.q.weight"]


def test_other_tensors_replace_the_base_s_and_tokens_do_not() -> None:
    adapter = read_adapter(
        peft({}, **{"base_model.model.head.weight": drawn(2, 2), "base_model.model.fc.base_layer.bias": drawn(4), "<s1>": drawn(3)})
    )
    assert adapter.whole == {"head.weight": "base_model.model.head.weight", "fc.bias": "base_model.model.fc.base_layer.bias"}
    assert adapter.left_out == ("<s1>",)
    assert repr(adapter) == "<Adapter: 1 updates of rank 2, 2 whole tensors, 0 shifts>"


def test_factors_are_read_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    raw = Checkpoint.raw

    def noted(self: Checkpoint, name: str) -> bytearray:
        read.append(name)
        return raw(self, name)

    monkeypatch.setattr(Checkpoint, "raw", noted)
    adapter = read_adapter(peft({}))
    assert adapter.factors["fc.weight"].shape == (4, 6) and repr(adapter) and read == []
    assert adapter["fc.weight"].rank == 2 and len(read) == 2


def test_an_update_that_is_not_there_is_named() -> None:
    with pytest.raises(UnknownNameError, match=r"no update of tensor named 'fc.weigh'; did you mean 'fc.weight'\?"):
        read_adapter(peft({}))["fc.weigh"]


WRONG = [
    (
        peft(),
        r"says nowhere what alpha its updates are scaled by; pass alpha= .*--option alpha=16.*, or put its adapter_config.json beside it",
    ),
    (peft({"peft_type": "IA3"}), r"an adapter of type IA3, expected LORA; merge it with peft's merge_and_unload"),
    (peft({"peft_type": "PREFIX_TUNING"}), r"an adapter of type PREFIX_TUNING, expected LORA"),
    (peft({"target_parameters": ["experts"]}), r"a LoRA with target_parameters, which is no sum of a base and low-rank updates; merge it"),
    (
        peft({"init_lora_weights": "pissa_niter_4"}),
        r"init_lora_weights 'pissa_niter_4', which took its start out of the base; save it with",
    ),
    (peft({"r": "two"}), r"expected numbers for r, lora_alpha and their patterns in adapter_config.json, found .*; save the adapter again"),
    (peft({"rank_pattern": {"f(c": 2}}), r"'f\(c' in adapter_config.json is no pattern of module names \(.*\); correct it"),
    (
        peft({"r": 3}),
        r"the factors of module 'fc' have rank 2, its adapter_config.json says 3; correct the config: the scale depends on it",
    ),
    (
        peft({}, **{"base_model.model.q.lora_A.weight": drawn(2, 3)}),
        r"module 'q' has one factor of its update without the other; copy the file again",
    ),
    (
        peft({}, **{"q.lora_A.weight": drawn(2, 3), "q.lora_B.weight": drawn(3, 4)}),
        r"module 'q' are \[2, 3\] and \[3, 4\], expected \(rank, in\)",
    ),
    (
        peft({}, **{"q.lora_A.two.weight": drawn(2, 3), "q.lora_B.two.weight": drawn(3, 2)}),
        r"expected one adapter, found 2 \('', 'two'\); save each",
    ),
    (peft({}, **{"fc.ia3_l": drawn(2)}), r"tensor 'fc.ia3_l' belongs to no plain low-rank update; merge it with the library that made it"),
    (peft({}, **{"fc.lora_E": drawn(2, 1)}), r"tensor 'fc.lora_E' belongs to no plain low-rank update"),
    (Checkpoint.of({"fc.weight": drawn(2, 2)}), r"expected low-rank updates \(lora_A and lora_B, .*\), found none; open an adapter folder"),
]


@pytest.mark.parametrize(("checkpoint", "message"), WRONG, ids=range(len(WRONG)))
def test_wrong_adapters_have_one_line_each(checkpoint: Checkpoint, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_adapter(checkpoint)
    assert re.search(message, str(caught.value)) and "\n" not in str(caught.value)


def test_a_config_beside_the_file_says_what_loralib_s_does_not(tmp_path: Path) -> None:
    ws.save({"q.lora_A": drawn(2, 6), "q.lora_B": drawn(4, 2)}, tmp_path / "trained.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 16}')
    opened = ws.open(tmp_path)
    assert opened.kind == "adapter" and read_adapter(opened)["q.weight"].scale == 8


def test_keys_of_no_update() -> None:
    assert [key_of(name) for name in ("fc.weight", "lora_config.weight", "down.weight", "up")] == [None] * 4


def test_loralib_s_roberta(real_checkpoints: Path) -> None:
    checkpoint = ws.open(real_checkpoints / "microsoft-lora" / "roberta_base_lora_mnli.bin")
    adapter = read_adapter(checkpoint, alpha=16.0)
    assert checkpoint.kind == "adapter" and len(adapter) == 24 and {update.rank for update in adapter.values()} == {8}
    assert sorted(adapter.whole) == [
        "classifier.dense.bias",
        "classifier.dense.weight",
        "classifier.out_proj.bias",
        "classifier.out_proj.weight",
    ]
    name = "roberta.encoder.layer.5.attention.self.value"
    expected = 2 * checkpoint[f"{name}.lora_B"].double() @ checkpoint[f"{name}.lora_A"].double()
    assert float((delta(adapter, f"{name}.weight").double() - expected).norm() / expected.norm()) < 1e-6


def test_cloneofsimo_s_numbered_modules(real_checkpoints: Path) -> None:
    adapter = read_adapter(ws.open(real_checkpoints / "cloneofsimo-lora" / "lora_disney.safetensors"))
    assert len(adapter) == 192 and adapter.left_out == ("<s1>", "<s2>") and not adapter.whole
    update = adapter["unet:17"]
    assert update.scale == 1 and torch.allclose(update.matrix(), update.b @ update.a)
