"""Tiny models of common families, built from transformers configurations, are traced and proved without help."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from weightspace.proof import prove
from weightspace.tracing import trace as trace_and_prove

trace = partial(trace_and_prove, prove=False)  # these tests prove where they have to

TOKENS = torch.randint(3, 60, (2, 8), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SMALL: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96, "use_cache": False,
}  # fmt: skip
VISION: dict[str, Any] = {**SMALL, "image_size": 32, "patch_size": 8}


def built(model: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers

        torch.manual_seed(0)
        module: nn.Module = getattr(transformers, model)(getattr(transformers, config)(**options)).eval()
        return module

    return build


# For each family: how many groups an element moves, and those of the first layer or stage: size, kind, symmetry, size of the parent.
FAMILIES: dict[str, tuple[Callable[[], nn.Module], torch.Tensor, int, set[tuple[int, str, str, int]]]] = {
    "llama": (
        built("LlamaForCausalLM", "LlamaConfig", **SMALL | {"num_attention_heads": 6, "num_key_value_heads": 2}),
        TOKENS,
        11,
        {(48, "permutable", "sign", 0), (2, "permutable", "none", 0), (3, "permutable", "none", 2), (4, "fixed", "rotation", 2),
         (8, "permutable", "linear", 2), (96, "permutable", "scale", 0)},
    ),
    "gpt2": (
        built("GPT2LMHeadModel", "GPT2Config", vocab_size=64, n_positions=16, n_embd=48, n_layer=2, n_head=4, use_cache=False,
              bos_token_id=1, eos_token_id=2),
        TOKENS,
        9,
        {(48, "permutable", "none", 0), (4, "permutable", "none", 0), (12, "permutable", "linear", 4), (192, "permutable", "none", 0)},
    ),
    "bert": (
        built("BertForMaskedLM", "BertConfig", **SMALL),
        TOKENS,
        9,
        {(48, "permutable", "none", 0), (4, "permutable", "none", 0), (12, "permutable", "linear", 4), (96, "permutable", "none", 0)},
    ),
    "vit": (
        built("ViTForImageClassification", "ViTConfig", **VISION),
        IMAGES,
        9,
        {(48, "permutable", "none", 0), (4, "permutable", "none", 0), (12, "permutable", "linear", 4), (96, "permutable", "none", 0)},
    ),
    "clip": (
        built("CLIPVisionModelWithProjection", "CLIPVisionConfig", **VISION, projection_dim=20),
        IMAGES,
        8,
        {(4, "permutable", "none", 0), (12, "permutable", "linear", 4), (96, "permutable", "none", 0)},
    ),
    "neox": (
        built("GPTNeoXForCausalLM", "GPTNeoXConfig", **SMALL),
        TOKENS,
        11,
        {(48, "permutable", "none", 0), (4, "permutable", "none", 0), (2, "fixed", "rotation", 4), (8, "permutable", "linear", 4),
         (12, "permutable", "linear", 4), (96, "permutable", "none", 0)},
    ),
    "convnext": (
        built("ConvNextForImageClassification", "ConvNextConfig", hidden_sizes=[16, 24], depths=[2, 2], num_stages=2),
        IMAGES,
        6,
        {(16, "permutable", "none", 0), (64, "permutable", "none", 0), (24, "permutable", "none", 0), (96, "permutable", "none", 0)},
    ),
    "resnet": (
        built("ResNetForImageClassification", "ResNetConfig", embedding_size=16, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic"),
        IMAGES,
        6,
        {(16, "permutable", "scale", 0), (32, "permutable", "scale", 0)},
    ),
    "t5": (
        built("T5EncoderModel", "T5Config", vocab_size=64, d_model=48, d_kv=8, d_ff=96, num_layers=2, num_heads=4),
        TOKENS,
        7,
        {(4, "permutable", "none", 0), (8, "permutable", "linear", 4), (96, "permutable", "scale", 0)},
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_traced_and_proved_without_help(family: str) -> None:
    build, inputs, count, kinds = FAMILIES[family]
    module = build()
    spec = trace(module, inputs)
    assert len(spec.movable) == count
    assert {(g.size, g.kind, g.symmetry, spec.sizes[g.per] if g.per else 0) for g in spec.movable} == kinds
    # A random ResNet hides some running means from its outputs, so that what is silent there is no fault of the spec.
    proved = prove(spec, module, inputs, contrast=1e-6)
    assert proved.proved
    assert proved.groups == spec.groups


def test_rows_of_grouped_queries_under_rotary_embeddings() -> None:
    build, inputs, *_ = FAMILIES["llama"]
    rows = trace(build(), inputs).to_dict()["tensors"]
    rows = {name.removeprefix("model.layers.0.self_attn."): axes.replace("model.layers.0.self_attn.", "") for name, axes in rows.items()}
    stream = "model.embed_tokens"
    assert rows["q_proj.weight"] == f"(q_proj.kv q_proj.rep (q_proj.plane + q_proj.plane)) {stream}'"
    assert rows["k_proj.weight"] == f"(q_proj.kv (q_proj.plane' + q_proj.plane')) {stream}'"
    assert rows["v_proj.weight"] == f"(q_proj.kv v_proj) {stream}'"
    assert rows["o_proj.weight"] == f"{stream} (q_proj.kv' q_proj.rep' v_proj')"


def test_outputs_beside_a_cache_are_the_tensors() -> None:
    module = built("LlamaForCausalLM", "LlamaConfig", **SMALL | {"use_cache": True, "num_hidden_layers": 1})()
    without = trace(module, TOKENS, use_cache=False)
    assert trace(module, input_ids=TOKENS).groups == without.groups


@pytest.mark.slow
def test_an_encoder_with_its_decoder() -> None:
    import transformers

    module = transformers.T5ForConditionalGeneration(
        transformers.T5Config(vocab_size=64, d_model=48, d_kv=8, d_ff=96, num_layers=2, num_heads=4)
    )

    class Logits(nn.Module):
        """Its output alone: the stream of the encoder, which the model returns too, may move."""

        def __init__(self) -> None:
            super().__init__()
            self.model = module

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.model(input_ids=tokens, decoder_input_ids=tokens, use_cache=False).logits
            return found

    spec = trace(Logits(), TOKENS)
    assert len(spec.movable) == 21
    assert "out" in trace(module, input_ids=TOKENS, decoder_input_ids=TOKENS).to_dict()["tensors"]["shared.weight"]
    heads = "model.decoder.block.1.layer.1.EncDecAttention.q.head"
    assert spec.groups[heads].per is None and spec.groups["model.shared"].symmetry == "sign"
