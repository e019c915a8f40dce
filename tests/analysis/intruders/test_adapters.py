"""Adapters of every kind: what is found in them is what is found in PEFT's own merge, and a mitigated one is an adapter that PEFT loads."""

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import weightspace as ws
from tests.adapters.peft_reference import Trained, decoder, farthest, trained
from tests.analysis.intruders.planted import adapter, decaying, drawn
from weightspace.adapters import apply_adapter, extract_adapter, fit, read_adapter, save_adapter
from weightspace.analysis.intruders import intruder_dimensions, mitigate
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError, FormatError


class Net(nn.Module):
    """A module of every kind whose update can be scaled."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed_tokens = nn.Embedding(40, 24)
        self.up = nn.Linear(24, 36)
        self.square = nn.Linear(36, 36)
        self.blocks = nn.ModuleList([nn.Linear(36, 36, bias=False) for _ in range(2)])
        self.conv = nn.Conv2d(8, 24, 3)
        self.head = nn.Linear(36, 5)


DENSE = ["up", "square", "blocks.0", "blocks.1"]
KINDS: dict[str, dict[str, Any]] = {
    "alpha": {"target_modules": DENSE, "r": 3, "lora_alpha": 4},
    "root of the rank": {"target_modules": DENSE, "r": 3, "lora_alpha": 2, "use_rslora": True},
    "patterns": {
        "target_modules": DENSE,
        "r": 4,
        "rank_pattern": {"blocks.1": 2, "up": 3},
        "alpha_pattern": {"square": 1, "blocks.*": 5},
        "use_rslora": True,
    },
    "convolution and embedding": {"target_modules": ["conv", "embed_tokens"], "r": 2},
    "biases and whole modules": {"target_modules": ["up", "square"], "r": 2, "lora_bias": True, "modules_to_save": ["head"]},
    "magnitudes": {"target_modules": [*DENSE, "conv"], "r": 3, "use_dora": True},
}


def made(kind: str, folder: Path) -> Trained:
    return trained(Net(), folder, **KINDS[kind])


def gpt2(folder: Path, **config: Any) -> Trained:
    return trained(decoder("gpt2", tied=False), folder, target_modules=["c_attn", "c_proj", "c_fc"], r=2, **config)


def same(one: Trained) -> None:
    """The adapter and PEFT's merge of it have the same intruders, vector by vector."""
    settings: dict[str, Any] = {"k": 6, "embeddings": True}
    found = intruder_dimensions(one.base, one.adapter, **settings)
    reference = intruder_dimensions(one.base, Checkpoint.of(one.merged), **settings)
    assert found.count > 0 and found.values == reference.values
    for row, expected in zip(found.vectors, reference.vectors, strict=True):
        assert (row["layer"], row["rank"], row["status"]) == (expected["layer"], expected["rank"], expected["status"])
        assert row["sigma"] == pytest.approx(expected["sigma"], rel=1e-4)
        if float(str(row["gap"])) > 1e-3:
            assert row["left"] == pytest.approx(expected["left"], abs=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_has_the_intruders_of_its_merge(kind: str, tmp_path: Path) -> None:
    same(made(kind, tmp_path))


@pytest.mark.parametrize("dora", [False, True], ids=["plain", "magnitudes"])
def test_weights_that_lie_in_out_have_left_vectors_of_outputs(dora: bool, tmp_path: Path) -> None:
    one = gpt2(tmp_path, use_dora=dora, fan_in_fan_out=True)
    same(one)
    [attention] = [layer for layer in intruder_dimensions(one.base, one.adapter, layers="*h.0.attn.c_attn*").layers]
    assert (attention.rows, attention.columns) == (48, 16)


def peft_merged(module: nn.Module, folder: Path) -> dict[str, Tensor]:
    """What PEFT makes of an adapter folder."""
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        merged = PeftModel.from_pretrained(copy.deepcopy(module), folder).merge_and_unload()
    return {name: tensor.detach() for name, tensor in merged.state_dict().items()}


@pytest.mark.parametrize("lam", [0.0, 1.7])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "magnitudes"])
def test_peft_loads_a_mitigated_adapter_and_merges_it_to_the_mitigated_model(kind: str, lam: float, tmp_path: Path) -> None:
    one = made(kind, tmp_path / "given")
    settings: dict[str, Any] = {"which": "all", "k": 5, "embeddings": True}
    model = mitigate(one.base, Checkpoint.of(one.merged), lam, **settings)
    found = mitigate(one.base, one.adapter, lam, **settings)
    assert found.kind == "adapter" and found.recipe is not None and found.recipe["ranks"] == (model.recipe or {})["ranks"]
    folder = save_adapter(found, tmp_path / "mitigated")
    assert farthest(model, peft_merged(Net(), folder)) < 2e-5
    assert farthest(model, one.merged) > 1e-2, "something should have been scaled"
    assert farthest(apply_adapter(one.base, ws.open(folder)), dict(model.state_dict())) < 2e-5


def test_peft_loads_one_of_weights_that_lie_in_out(tmp_path: Path) -> None:
    one = gpt2(tmp_path / "given", fan_in_fan_out=True)
    model = mitigate(one.base, Checkpoint.of(one.merged), 0.2, "all")
    folder = save_adapter(mitigate(one.base, one.adapter, 0.2, "all"), tmp_path / "mitigated")
    assert farthest(model, peft_merged(decoder("gpt2", tied=False), folder)) < 2e-5


def test_ranks_grow_by_what_is_scaled_and_other_updates_stay_as_they_are(tmp_path: Path) -> None:
    one = made("alpha", tmp_path)
    found = mitigate(one.base, one.adapter, 0.0, {"up.weight": [1, 3]})
    config = found.metadata["adapter_config"]
    assert config["rank_pattern"] == {"blocks.0": 3, "blocks.1": 3, "square": 3, "up": 5} and config["r"] == 3
    for name in one.adapter:
        assert torch.equal(found[name], one.adapter[name]) is (".up." not in name)
    assert found.parents == (one.base.id, one.adapter.id)


def test_a_lambda_of_one_leaves_an_adapter_as_it_is(tmp_path: Path) -> None:
    one = made("patterns", tmp_path)
    assert mitigate(one.base, one.adapter, 1.0).id == one.adapter.id
    assert mitigate(one.base, one.adapter, 1.0).metadata == one.adapter.metadata


def test_a_truncated_adapter_is_the_best_of_its_rank(tmp_path: Path) -> None:
    one = made("patterns", tmp_path)
    exact, short = (mitigate(one.base, one.adapter, 0.3, "all", truncate=truncate) for truncate in (False, True))
    config = one.adapter.metadata["adapter_config"]
    assert short.metadata["adapter_config"]["rank_pattern"] == {"blocks.0": 4, "blocks.1": 2, "square": 4, "up": 3} and config["r"] == 4
    updates, shorter = (fit(read_adapter(found), one.base) for found in (exact, short))
    for name, update in updates.items():
        rank = shorter[name].rank
        values = torch.linalg.svdvals(update.matrix())
        left_out = torch.linalg.norm(update.matrix() - shorter[name].matrix())
        assert float(left_out) == pytest.approx(float(values[rank:].norm()), rel=1e-3, abs=1e-5)


def test_a_dora_comes_out_merged_or_not_at_all(tmp_path: Path) -> None:
    one = made("magnitudes", tmp_path)
    with pytest.raises(AnalysisError, match=r"the update of 'up.weight' is more than a product .* pass merged=True"):
        mitigate(one.base, one.adapter, 0.0)
    merged = mitigate(one.base, one.adapter, 0.0, merged=True)
    assert merged.kind == "full" and farthest(merged, dict(mitigate(one.base, Checkpoint.of(one.merged), 0.0).state_dict())) < 1e-5


def test_the_energy_control_needs_the_merged_model(tmp_path: Path) -> None:
    one = made("alpha", tmp_path)
    with pytest.raises(AnalysisError, match="the energy control is made of the whole update"):
        mitigate(one.base, one.adapter, 0.0, control="energy")
    assert mitigate(one.base, one.adapter, 0.0, control="energy", merged=True).kind == "full"


@pytest.mark.parametrize("style", ["loralib", "kohya"])
def test_adapters_of_other_libraries_come_out_with_names_of_peft(style: str, tmp_path: Path) -> None:
    base = Checkpoint.of({"a.fc.weight": decaying(36, 30), "b.fc.weight": decaying(30, 36), "b.fc.bias": torch.ones(30)})
    a, b = drawn(2, 30), drawn(36, 2, seed=5)
    other = drawn(2, 36, seed=2), drawn(30, 2, seed=3)
    if style == "kohya":
        tensors = {"lora_unet_a_fc.lora_down.weight": a, "lora_unet_a_fc.lora_up.weight": b, "lora_unet_a_fc.alpha": torch.tensor(1.0)}
        tensors |= {"lora_unet_b_fc.lora_down.weight": other[0], "lora_unet_b_fc.lora_up.weight": other[1]}
        given = read_adapter(Checkpoint.of(tensors, kind="adapter"))
    else:
        tensors = {"a.fc.lora_A": a, "a.fc.lora_B": b, "b.fc.lora_A": other[0], "b.fc.lora_B": other[1]}
        given = read_adapter(Checkpoint.of(tensors, kind="adapter"), alpha=3.0)
    model = mitigate(base, given, 0.25, "all", merged=True)
    found = ws.open(save_adapter(mitigate(base, given, 0.25, "all"), tmp_path / "found"))
    assert (model.recipe or {})["ranks"].keys() == {"a.fc.weight", "b.fc.weight"}
    assert farthest(apply_adapter(base, found), dict(model.state_dict())) < 1e-5


def test_factors_of_few_bits_are_widened_where_they_change() -> None:
    base = Checkpoint.of({"fc.weight": decaying(36, 30)})
    given = adapter({"fc": (36, 30)})
    low = Checkpoint.of({name: one.bfloat16() for name, one in given.items()}, kind="adapter", metadata=given.metadata)
    model, found = (mitigate(base, low, 0.0, "all", merged=merged) for merged in (True, False))
    assert {one.dtype for one in found.info.values()} == {"F32"}
    assert farthest(apply_adapter(base, found), dict(model.state_dict())) < 1e-5


def test_an_adapter_of_an_alpha_of_nothing_has_nothing_to_scale_unless_it_is_named() -> None:
    base = Checkpoint.of({"fc.weight": decaying(36, 30)})
    silent = adapter({"fc": (36, 30)}, lora_alpha=0)
    assert intruder_dimensions(base, silent).skipped == {"fc.weight": "unchanged"}
    with pytest.raises(AnalysisError, match=r"nothing of layer 'fc.weight' can be scaled: unchanged"):
        mitigate(base, silent, 0.0, {"fc.weight": [1]})


def test_an_adapter_without_updates_says_so() -> None:
    empty = Checkpoint.of({}, kind="adapter", metadata=adapter({"fc": (4, 4)}).metadata)
    with pytest.raises(FormatError, match="expected low-rank updates"):
        intruder_dimensions({"fc.weight": decaying()}, empty)


def test_an_extracted_adapter_has_the_intruders_of_the_model_it_was_taken_from() -> None:
    base = Checkpoint.of({"a.weight": decaying(), "b.weight": decaying(seed=2)})
    tuned = Checkpoint.of({name: tensor + 2 * drawn(48, 3) @ drawn(3, 40) for name, tensor in base.items()})
    assert intruder_dimensions(base, extract_adapter(base, tuned, rank=8)).values == intruder_dimensions(base, tuned).values


@pytest.mark.parametrize("which", ["top", "all"])
def test_where_pefts_own_function_agrees_and_where_it_departs(which: str, tmp_path: Path) -> None:
    # PEFT scales every intruder of the top k, not the first alone, and cuts the update to its old rank. It adds (lambda - 1) times the
    # triplet, so that 1 changes nothing, whatever its documentation says of a part that is subtracted.
    from peft import PeftModel
    from peft.tuners.lora.intruders import reduce_intruder_dimension

    one = made("alpha", tmp_path)
    said: list[str] = []
    for lam in (1.0, 0.6):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = PeftModel.from_pretrained(Net(), tmp_path)
            reduce_intruder_dimension(wrapped, mitigation_lambda=lam, logging_sink=said.append)
            theirs = {name: tensor.detach() for name, tensor in wrapped.merge_and_unload().state_dict().items()}
        if lam == 1:
            assert farthest(Checkpoint.of(one.merged), theirs) < 1e-5
            continue
        ours = mitigate(one.base, one.adapter, lam, which, truncate=True)
        distance = farthest(apply_adapter(one.base, ours), theirs)
        assert distance < 1e-4 if which == "all" else distance > 1e-2
    counts = {layer.name.removesuffix(".weight"): layer.count for layer in intruder_dimensions(one.base, one.adapter).layers}
    theirs_by_layer = {line.split(":")[0].removeprefix("base_model.model."): line.rsplit(" ", 1)[1] for line in said if "ntruders" in line}
    assert {name: int(count) for name, count in theirs_by_layer.items() if count.isdigit()} == {name: n for name, n in counts.items() if n}


def test_an_update_of_a_tied_tensor_is_not_lost_without_a_word(tmp_path: Path) -> None:
    one = trained(decoder("llama", tied=True), tmp_path, target_modules=["q_proj", "lm_head"], r=2)
    found = intruder_dimensions(one.base, one.adapter)
    assert {name for name, reason in found.skipped.items() if reason.startswith("the base has no tensor of its own")} == {"lm_head.weight"}
    assert [layer.name for layer in found.layers] == [f"model.layers.{at}.self_attn.q_proj.weight" for at in range(2)]


def test_an_attention_whose_output_peft_updates_twice(tmp_path: Path) -> None:
    module = nn.Sequential()
    module.add_module("attention", nn.MultiheadAttention(16, 2))
    one = trained(module, tmp_path / "given", target_modules=["attention"], r=2)
    same(one)
    model = mitigate(one.base, one.adapter, 0.0, "all", merged=True)
    folder = save_adapter(mitigate(one.base, one.adapter, 0.0, "all"), tmp_path / "mitigated")
    assert "attention.out_proj.weight" in (model.recipe or {})["ranks"]
    assert farthest(model, peft_merged(module, folder)) < 2e-5
