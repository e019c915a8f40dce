"""Roles of layers by their names."""

import pytest

from weightspace.roles import block_of, role_of

ROLES = {
    "model.layers.3.self_attn.q_proj.weight": "q",
    "model.layers.3.self_attn.k_proj": "k",
    "roberta.encoder.layer.0.attention.self.value.weight": "v",
    "roberta.encoder.layer.0.attention.self.query.lora_A": "q",
    "bert.encoder.layer.11.attention.output.dense.weight": "o",
    "bert.encoder.layer.11.output.dense.weight": "down",
    "bert.encoder.layer.11.intermediate.dense.weight": "up",
    "transformer.h.0.attn.c_attn.weight": "qkv",
    "transformer.h.0.attn.c_proj.weight": "o",
    "transformer.h.0.mlp.c_proj.weight": "down",
    "transformer.h.0.mlp.c_fc.weight": "up",
    "gpt_neox.layers.1.attention.query_key_value.weight": "qkv",
    "gpt_neox.layers.1.attention.dense.weight": "o",
    "gpt_neox.layers.1.mlp.dense_4h_to_h.weight": "down",
    "encoder.block.0.layer.0.SelfAttention.o.weight": "o",
    "encoder.block.0.layer.1.DenseReluDense.wo.weight": "down",
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0.weight": "o",
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q.weight": "q",
    "model.layers.0.mlp.gate_proj.weight": "gate",
    "features.7.conv2.weight": "conv2",
    "layer1.0.downsample.0.weight": "downsample",
    "fc.weight": "fc",
    "unet:17": "unet",
}


@pytest.mark.parametrize(("name", "role"), ROLES.items())
def test_roles(name: str, role: str) -> None:
    assert role_of(name) == role


def test_blocks() -> None:
    assert block_of("transformer.h.10.attn.c_attn.weight") == "transformer.h.10" and block_of("lm_head.weight") == ""
