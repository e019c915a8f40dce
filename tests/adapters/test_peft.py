"""Every rule of PEFT, against the installed peft: what it merges, and where its merge is not what it trained, its function."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import weightspace as ws
from tests.adapters.peft_reference import Small, decoder, farthest, logits, trained
from weightspace.adapters import apply_adapter, extract_adapter, read_adapter, save_adapter
from weightspace.checkpoint import Checkpoint

DENSE = ["up", "square", "blocks.0", "blocks.1"]
CASES: dict[str, dict[str, Any]] = {
    "alpha": {"target_modules": DENSE, "r": 4, "lora_alpha": 6},
    "root of the rank": {"target_modules": DENSE, "r": 4, "use_rslora": True},
    "patterns": {"target_modules": DENSE, "r": 4, "rank_pattern": {"blocks.1": 2, "up": 3}, "alpha_pattern": {"square": 1, "blocks.*": 5}},
    "patterns and root": {"target_modules": DENSE, "r": 4, "use_rslora": True, "rank_pattern": {"up": 3}, "alpha_pattern": {"^square": 1}},
    "targets by expression": {"target_modules": r"blocks\.\d", "r": 2},
    "magnitudes": {"target_modules": DENSE, "r": 2, "use_dora": True},
    "convolutions": {"target_modules": ["conv", "point", "line"], "r": 2},
    "magnitudes of convolutions": {"target_modules": ["conv", "point", "line"], "r": 2, "use_dora": True},
    "embedding": {"target_modules": ["embed_tokens"], "r": 2},
    "magnitudes of an embedding": {"target_modules": ["embed_tokens", "up"], "r": 2, "use_dora": True},
    "all biases": {"target_modules": DENSE, "r": 2, "bias": "all"},
    "their biases": {"target_modules": DENSE, "r": 2, "bias": "lora_only"},
    "low-rank biases": {"target_modules": ["up", "square", "conv"], "r": 2, "lora_bias": True},
    "whole modules": {"target_modules": DENSE, "r": 2, "modules_to_save": ["head", "norm"]},
}


@pytest.mark.parametrize("case", CASES)
def test_an_applied_adapter_is_what_peft_merges(case: str, tmp_path: Path) -> None:
    made = trained(Small(), tmp_path, **CASES[case])
    applied = apply_adapter(made.base, made.adapter)
    assert farthest(applied, made.merged) < 1e-6
    assert farthest(made.base, made.merged) > 1e-2, "the adapter should change something"


@pytest.mark.parametrize(
    "targets", [["c_attn", "c_proj", "c_fc"], ["c_attn", "c_proj", "lm_head"], ["c_attn", "c_proj", "wte"]], ids=lambda one: one[-1]
)
@pytest.mark.parametrize("dora", [False, True], ids=["plain", "magnitudes"])
def test_weights_that_lie_in_out_are_turned(targets: list[str], dora: bool, tmp_path: Path) -> None:
    # Where a Linear comes last, peft saves fan_in_fan_out as false, and the square c_proj has only its neighbours to go by.
    made = trained(decoder("gpt2", tied=False), tmp_path, target_modules=targets, r=2, use_dora=dora)
    assert made.adapter.metadata["adapter_config"]["fan_in_fan_out"] is (targets[-1] != "lm_head")
    assert farthest(apply_adapter(made.base, made.adapter), made.merged) < 1e-6
    assert farthest(made.base, made.merged) > 1e-2


def test_an_attention_has_its_output_updated_twice_as_in_training(tmp_path: Path) -> None:
    made = trained(Small(), tmp_path, target_modules=["attention"], r=2)
    assert farthest(apply_adapter(made.base, made.adapter), made.merged) < 1e-6
    adapted, batch = Small(), torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(1))
    adapted.load_state_dict(apply_adapter(made.base, made.adapter).state_dict())
    with torch.no_grad():
        expected = made.wrapped.base_model.model.attention(batch, batch, batch)[0]
        assert float((adapted.attention(batch, batch, batch)[0] - expected).abs().max()) < 1e-5


TIED: dict[str, dict[str, Any]] = {
    "embedding": {"target_modules": ["q_proj", "embed_tokens"], "r": 2},
    "head": {"target_modules": ["q_proj", "lm_head"], "r": 2},
    "embedding, ties kept": {"target_modules": ["q_proj", "embed_tokens"], "r": 2, "ensure_weight_tying": True},
    "whole": {"target_modules": ["q_proj"], "r": 2, "modules_to_save": ["embed_tokens", "lm_head"]},
    "whole, ties kept": {"target_modules": ["q_proj"], "r": 2, "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
}


@pytest.mark.parametrize("hidden", [False, True], ids=["head stored", "head not stored"])
@pytest.mark.parametrize("case", TIED)
def test_a_tied_model_computes_what_was_trained(case: str, hidden: bool, tmp_path: Path) -> None:
    module = decoder("llama", tied=True)
    made = trained(module, tmp_path, **TIED[case])
    applied = apply_adapter(without_head(made.base) if hidden else made.base, made.adapter)
    is_tied = applied.metadata["config"]["tie_word_embeddings"]
    assert is_tied is ("ties kept" in case)
    adapted = decoder("llama", tied=is_tied)
    adapted.load_state_dict(applied.state_dict(), strict=not is_tied)
    adapted.tie_weights()
    expected = logits(made.wrapped)
    assert float((logits(adapted) - expected).abs().max()) < 1e-5 * float(expected.abs().max())
    if not hidden:
        assert (applied.info["lm_head.weight"].alias_of is not None) is False or is_tied


def without_head(model: Checkpoint) -> Checkpoint:
    """The model as transformers writes a tied one."""
    kept = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}
    return Checkpoint.of(kept, metadata=model.metadata)


def moved(module: nn.Module) -> nn.Module:
    """A copy with every parameter changed in full rank."""
    other, generator = copy.deepcopy(module), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return other


@pytest.mark.parametrize("limit", [{"rank": 100}, {"rank": 100, "alpha": 3.0}, {"energy": 1.0}], ids=["rank", "alpha", "energy"])
@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("llama", True), ("gpt2", False), ("gpt2", True)])
def test_peft_loads_an_extracted_adapter(family: str, tied: bool, limit: dict[str, Any], tmp_path: Path) -> None:
    from peft import PeftModel

    module = decoder(family, tied=tied)
    tuned = moved(module)
    pair = [Checkpoint.of(one.state_dict(), metadata={"config": described_of(module)}) for one in (module, tuned)]
    adapter = extract_adapter(*pair, keep_whole=True, **limit)
    assert adapter.kind == "adapter" and adapter.metadata["extraction"]["left_out"] == {}
    opened = ws.open(save_adapter(adapter, tmp_path / "adapter"))
    assert opened.kind == "adapter" and opened.id == adapter.id
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = PeftModel.from_pretrained(copy.deepcopy(module), tmp_path / "adapter")
    expected = logits(tuned)
    assert float((logits(module) - expected).abs().max()) > 0.1
    assert float((logits(loaded) - expected).abs().max()) < 1e-5
    applied = apply_adapter(pair[0], opened)
    assert farthest(applied, tuned.state_dict()) < 3e-6
    assert applied.info["lm_head.weight"].alias_of == pair[0].info["lm_head.weight"].alias_of


def described_of(module: Any) -> dict[str, Any]:
    return {**module.config.to_dict(), "architectures": [type(module).__name__]}


def test_what_peft_trained_in_half_precision_is_added_in_single(tmp_path: Path) -> None:
    made = trained(Small(), tmp_path, dtype=torch.bfloat16, target_modules=["up"], r=2, lora_alpha=4)
    one = read_adapter(made.adapter)["up.weight"]
    assert one.a.dtype == torch.float32
    expected: Tensor = made.base["up.weight"].double() + 2 * one.b.double() @ one.a.double()
    assert float((apply_adapter(made.base, made.adapter)["up.weight"].double() - expected).norm() / expected.norm()) < 1e-6
