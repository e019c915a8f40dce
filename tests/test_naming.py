"""What names alone say: wrapper prefixes and low-rank pairs."""

import pytest

from weightspace import naming


@pytest.mark.parametrize(
    ("names", "prefix"),
    [
        (["module.a.weight", "module.b"], "module."),
        (["module._orig_mod.a", "module._orig_mod.b"], "module._orig_mod."),
        (["module.a", "b"], ""),
        (["model.a", "model.b"], ""),
        ([], ""),
    ],
)
def test_wrapper_prefix(names: list[str], prefix: str) -> None:
    assert naming.wrapper_prefix(names) == prefix


@pytest.mark.parametrize(
    "names",
    [
        ["roberta.q.lora_A", "roberta.q.lora_B", "head.weight"],
        ["base_model.model.q.lora_A.weight", "base_model.model.q.lora_B.weight"],
        ["base_model.model.q.lora_A.default.weight", "base_model.model.q.lora_B.default.weight"],
        ["lora_unet_x.lora_down.weight", "lora_unet_x.lora_up.weight", "lora_unet_x.alpha"],
        ["unet.to_k_lora.down.weight", "unet.to_k_lora.up.weight"],
        ["unet:0:down", "unet:0:up", "text_encoder:3:down", "text_encoder:3:up"],
        ["x.hada_w1_a", "x.hada_w1_b", "x.hada_w2_a", "x.hada_w2_b"],
        ["x.lokr_w1", "x.lokr_w2"],
        ["emb.lora_embedding_A", "emb.lora_embedding_B"],
    ],
)
def test_low_rank_updates_are_adapters(names: list[str]) -> None:
    assert naming.is_adapter(names)


@pytest.mark.parametrize(
    "names",
    [
        ["fc1.weight", "fc1.bias"],
        ["up.weight", "down.weight"],
        ["q.weight", "q.lora_A", "q.lora_B"],
        ["q.base_layer.weight", "q.lora_A.weight", "q.lora_B.weight"],
        ["q.lora_A"],
        ["unet:0:down"],
        ["explora_A", "weight"],
    ],
)
def test_full_models_are_not_adapters(names: list[str]) -> None:
    assert not naming.is_adapter(names)
