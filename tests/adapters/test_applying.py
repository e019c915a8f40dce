import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace.adapters import apply_adapter, delta, fit, read_adapter
from weightspace.checkpoint import Checkpoint
from weightspace.errors import MergeError


def drawn(*size: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(sum(size)))


def low_rank(shapes: dict[str, tuple[int, ...]], more: dict[str, Tensor] | None = None, config: dict[str, Any] | None = None) -> Checkpoint:
    """A PEFT adapter of rank 2 with updates of modules whose weights have these shapes."""
    tensors = dict(more or {})
    for module, (rows, *columns) in shapes.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = drawn(2, *columns)
        tensors[f"base_model.model.{module}.lora_B.weight"] = drawn(rows, 2, *(1 for _ in columns[1:]))
    return Checkpoint.of(tensors, kind="adapter", metadata={"adapter_config": {"r": 2, "lora_alpha": 4, **(config or {})}})


def product(adapter: Checkpoint, module: str, scale: float = 2) -> Tensor:
    """What the adapter adds, in float64."""
    place = f"base_model.model.{module}"
    return scale * adapter[f"{place}.lora_B.weight"].double().flatten(1) @ adapter[f"{place}.lora_A.weight"].double().flatten(1)


BASE = {"a.fc.weight": drawn(4, 6), "a.fc.bias": drawn(4), "b.fc.weight": drawn(3, 6), "steps": torch.tensor(3)}


def base(dtype: torch.dtype = torch.float32, more: dict[str, Tensor] | None = None) -> Checkpoint:
    return Checkpoint.of({**{name: t.to(dtype) if t.is_floating_point() else t for name, t in BASE.items()}, **(more or {})})


def test_tensors_are_computed_when_read_and_the_base_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    model, adapter = base(), low_rank({"a.fc": (4, 6)})
    before = model.id
    with monkeypatch.context() as patched:
        patched.setattr(Checkpoint, "raw", lambda *_: pytest.fail("a tensor was read"))
        applied = apply_adapter(model, adapter)
        assert list(applied.info) == list(model.info) and applied.info == model.info
    assert torch.equal(applied["b.fc.weight"], model["b.fc.weight"])
    expected = model["a.fc.weight"].double() + product(adapter, "a.fc")
    assert float((applied["a.fc.weight"] - expected).norm() / expected.norm()) < 1e-6
    assert model.id == before and applied.id != before


@pytest.mark.parametrize(
    ("stored", "found"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
    ids=str,
)
def test_updated_tensors_are_wide_and_others_as_they_were(stored: torch.dtype, found: torch.dtype) -> None:
    model, adapter = base(stored), low_rank({"a.fc": (4, 6)})
    applied = apply_adapter(model, adapter)
    assert applied["a.fc.weight"].dtype == found and applied["b.fc.weight"].dtype == stored
    expected = model["a.fc.weight"].double() + product(adapter, "a.fc")
    assert float((applied["a.fc.weight"].double() - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.parametrize("weight", [0.0, 0.5, -1.0])
@pytest.mark.parametrize("kind", ["plain", "magnitudes", "whole", "shift"])
def test_the_weight_goes_along_a_straight_line(kind: str, weight: float) -> None:
    more = {
        "magnitudes": {"base_model.model.a.fc.lora_magnitude_vector": drawn(4).abs() + 1},
        "whole": {"base_model.model.b.fc.weight": drawn(3, 6) + 1},
        "shift": {"base_model.model.a.fc.lora_B.bias": drawn(4)},
    }.get(kind, {})
    model, adapter = base(), low_rank({"a.fc": (4, 6)}, more)
    end, there = apply_adapter(model, adapter), apply_adapter(model, adapter, weight=weight)
    for name in ("a.fc.weight", "a.fc.bias", "b.fc.weight"):
        assert torch.allclose(there[name], model[name] + weight * (end[name] - model[name]), atol=1e-5)


def test_adapters_add_up() -> None:
    model, one, two = base(), low_rank({"a.fc": (4, 6)}), low_rank({"b.fc": (3, 6)})
    both, other = apply_adapter(apply_adapter(model, one), two), apply_adapter(apply_adapter(model, two), one)
    assert both.id == other.id


@pytest.mark.parametrize(
    ("names", "targets"),
    [
        (["module.a.fc.weight", "module.b.fc.weight"], ["a.fc", "b.fc"]),
        (["layers.0.fc.weight", "layers.1.fc.weight"], ["model.layers.0.fc", "model.layers.1.fc"]),
        (["model.layers.0.fc.weight", "model.layers.1.fc.weight"], ["layers.0.fc", "layers.1.fc"]),
        (["fc.weight", "x.fc.weight"], ["fc"]),
    ],
)
def test_names_may_differ_by_one_prefix(names: list[str], targets: list[str]) -> None:
    model = Checkpoint.of({name: drawn(4, 6) for name in names})
    fitted = fit(read_adapter(low_rank(dict.fromkeys(targets, (4, 6)))), model)
    assert list(fitted) == names[: len(targets)]


def test_a_head_that_the_base_lacks_is_new() -> None:
    adapter = low_rank({"a.fc": (4, 6)}, {"base_model.model.score.weight": drawn(2, 4)})
    applied = apply_adapter(base(), adapter)
    assert torch.equal(applied["score.weight"], drawn(2, 4)) and list(applied)[-1] == "score.weight"


def test_flat_names_and_two_parts_of_a_pipeline() -> None:
    tensors = {
        f"lora_{part}_{module}.{one}.weight": drawn(2, 2)
        for part, module in (("unet", "down_0_to_q"), ("te", "text_fc"))
        for one in ("lora_down", "lora_up")
    }
    unet = Checkpoint.of({"down.0.to_q.weight": drawn(2, 2), "down.0.to_q.bias": drawn(2)})
    fitted = fit(read_adapter(Checkpoint.of(tensors, kind="adapter")), unet)
    assert list(fitted) == ["down.0.to_q.weight"] and fitted.left_out == ("te.text_fc.weight",)
    assert torch.allclose(
        apply_adapter(unet, Checkpoint.of(tensors, kind="adapter"))["down.0.to_q.weight"], drawn(2, 2) + drawn(2, 2) @ drawn(2, 2)
    )


def test_a_dense_update_fits_a_kernel_of_one_by_one() -> None:
    adapter = Checkpoint.of({"unet.proj.lora.down.weight": drawn(2, 6), "unet.proj.lora.up.weight": drawn(4, 2)}, kind="adapter")
    applied = apply_adapter(Checkpoint.of({"proj.weight": drawn(4, 6, 1, 1)}), adapter)
    assert torch.allclose(applied["proj.weight"][..., 0, 0], drawn(4, 6, 1, 1)[..., 0, 0] + drawn(4, 2) @ drawn(2, 6), atol=1e-6)


def test_numbered_modules_are_named_by_the_caller() -> None:
    adapter = Checkpoint.of({f"unet:{i}:{one}": drawn(2, 2) for i in range(2) for one in ("down", "up")}, kind="adapter")
    model = Checkpoint.of({"q.weight": drawn(2, 2), "k.weight": drawn(2, 2)})
    assert list(fit(read_adapter(adapter), model, {"unet:0": "k.weight", "unet:1": "q.weight"})) == ["k.weight", "q.weight"]
    applied = apply_adapter(model, adapter, names={"unet:0": "k.weight", "unet:1": "q.weight"})
    assert torch.allclose(applied["k.weight"], drawn(2, 2) + drawn(2, 2) @ drawn(2, 2))
    with pytest.raises(MergeError, match="names= has some modules of 'unet' but not 'unet:1'; give the base's tensor for each"):
        fit(read_adapter(adapter), model, {"unet:0": "k.weight"})
    with pytest.raises(MergeError, match="the adapter has no update 'unet:7'; name one of 'unet:0', 'unet:1'"):
        fit(read_adapter(adapter), model, {"unet:7": "k.weight"})
    with pytest.raises(MergeError, match="names= gives one tensor for two updates of the adapter; give each its own"):
        fit(read_adapter(adapter), model, {"unet:0": "q.weight", "unet:1": "q.weight"})
    with pytest.raises(MergeError, match=r"the base has no tensor 'v.weight' .*; correct names="):
        fit(read_adapter(adapter), model, {"unet:0": "v.weight", "unet:1": "q.weight"})


def pipeline(**rows: int) -> Checkpoint:
    """Two layers of each part of a pipeline, under the same names in all of them."""
    shapes = {f"{part}.layers.{i}.fc.lora_linear_layer": size for part, size in rows.items() for i in range(2)}
    factors = {f"{name}.down.weight": drawn(2, 3) for name in shapes} | {
        f"{name}.up.weight": drawn(size, 2) for name, size in shapes.items()
    }
    return Checkpoint.of(factors, kind="adapter")


def test_the_part_of_a_pipeline_that_fits_by_shape_is_taken() -> None:
    adapter = read_adapter(pipeline(text_encoder=4, text_encoder_2=5))
    one = Checkpoint.of({f"text_model.layers.{i}.fc.weight": drawn(5, 3) for i in range(2)})
    fitted = fit(adapter, one)
    assert [factors.component for factors in fitted.factors.values()] == ["text_encoder_2"] * 2
    both = Checkpoint.of(
        {f"{part}.layers.{i}.fc.weight": drawn(rows, 3) for part, rows in (("text_encoder", 4), ("text_encoder_2", 5)) for i in range(2)}
    )
    assert list(fit(adapter, both)) == list(both) and not fit(adapter, both).left_out
    with pytest.raises(MergeError, match=r"two updates of the adapter fit 'text_model.layers.0.fc.weight' in the base; pass names="):
        fit(read_adapter(pipeline(text_encoder=5, text_encoder_2=5)), one)


@pytest.mark.parametrize(
    ("embedding", "config"),
    [
        ("model.embed_tokens.weight", {"tie_word_embeddings": True, "architectures": ["LlamaForCausalLM"]}),
        ("transformer.wte.weight", {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}),  # which need not say that it ties
    ],
)
def test_a_hidden_head_alone_may_be_updated(embedding: str, config: dict[str, Any]) -> None:
    model = Checkpoint.of({embedding: drawn(9, 4)}, metadata={"config": config})
    adapter = low_rank({"lm_head": (9, 4)})
    applied = apply_adapter(model, adapter)
    assert torch.allclose(applied["lm_head.weight"].double(), drawn(9, 4).double() + product(adapter, "lm_head"), atol=1e-5)
    assert torch.equal(applied[embedding], drawn(9, 4)) and applied.metadata["config"]["tie_word_embeddings"] is False


@pytest.mark.parametrize("updated", ["a.weight", "b.weight", "c.weight"])
def test_a_tied_tensor_that_is_updated_alone_is_untied(updated: str) -> None:
    shared = drawn(4, 6)
    model = Checkpoint.of({"a.weight": shared, "b.weight": shared, "c.weight": shared})
    applied = apply_adapter(model, low_rank({updated.removesuffix(".weight"): (4, 6)}))
    others = [name for name in model if name != updated]
    assert applied.info[updated].alias_of is None and not torch.equal(applied[updated], shared)
    assert [applied.info[name].alias_of for name in others] == [None, others[0]]
    assert all(torch.equal(applied[name], shared) for name in others)


@pytest.mark.parametrize("updated", ["a.weight", "b.weight"])
def test_ties_are_kept_where_the_adapter_was_trained_so(updated: str) -> None:
    shared = drawn(4, 6)
    model = Checkpoint.of({"a.weight": shared, "b.weight": shared})
    applied = apply_adapter(model, low_rank({updated.removesuffix(".weight"): (4, 6)}, config={"ensure_weight_tying": True}))
    assert applied.info["b.weight"].alias_of == "a.weight" and torch.equal(applied["a.weight"], applied["b.weight"])
    assert not torch.equal(applied["a.weight"], shared)


def test_a_masked_model_s_hidden_head_is_refused() -> None:
    config = {"tie_word_embeddings": True, "architectures": ["BertForMaskedLM"]}
    model = Checkpoint.of({"word_embeddings.weight": drawn(9, 4)}, metadata={"config": config})
    factors = {"word_embeddings.lora_embedding_A": drawn(2, 9), "word_embeddings.lora_embedding_B": drawn(4, 2)}
    with pytest.raises(
        MergeError, match=r"'word_embeddings.weight', to which BertForMaskedLM ties an output head that its file does not store; save"
    ):
        apply_adapter(model, Checkpoint.of(factors, kind="adapter"), alpha=2.0)
    headless = Checkpoint.of(model.state_dict(), metadata={"config": {**config, "architectures": ["BertModel"]}})
    assert list(apply_adapter(headless, Checkpoint.of(factors, kind="adapter"), alpha=2.0)) == ["word_embeddings.weight"]


def test_what_magnitudes_change_depends_on_the_base() -> None:
    adapter = low_rank({"a.fc": (4, 6)}, {"base_model.model.a.fc.lora_magnitude_vector": torch.ones(4)})
    with pytest.raises(MergeError, match=r"the update of 'a.fc.weight' sets magnitudes, so its change depends on the base; pass base="):
        delta(read_adapter(adapter), "a.fc.weight")
    moved = base()["a.fc.weight"] + delta(read_adapter(adapter), "a.fc.weight", base())
    assert torch.allclose(moved.norm(dim=1), torch.ones(4), atol=1e-6)


WRONG: list[tuple[Checkpoint, Checkpoint, str]] = [
    (
        base(),
        low_rank({"z.q": (4, 6)}),
        r"fits nothing in the base: no tensor is named like 'z.q.weight' \(there are 'a.fc.weight', .*\); apply it to",
    ),
    (
        base(),
        low_rank({"a.fc": (4, 6), "c.fc": (4, 6)}),
        r"updates module 'c.fc', which the base has not, though it has 1 of 2 others; apply it",
    ),
    (base(), low_rank({"fc": (4, 6)}), r"module 'fc' of the adapter may be any of 'a.fc', 'b.fc' in the base; pass names="),
    (base(), low_rank({"a.fc": (5, 6)}), r"update of 'a.fc.weight' is \[5, 6\], the tensor in the base is \[4, 6\]; apply it to the model"),
    (
        base(),
        low_rank({"a.fc": (4, 6)}, {"base_model.model.a.fc.lora_magnitude_vector": drawn(6)}),
        r"the magnitudes of 'a.fc.weight' are 6, expected one for each of 4 outputs; save the adapter again",
    ),
    (
        base(),
        low_rank({"a.fc": (4, 6)}, {"base_model.model.b.fc.weight": drawn(5, 6)}),
        r"the adapter's 'base_model.model.b.fc.weight' is \[5, 6\], the base's 'b.fc.weight' is \[3, 6\]; resize the base",
    ),
    (
        base(),
        low_rank({"b.fc": (3, 6)}, {"base_model.model.b.fc.lora_B.bias": drawn(3)}),
        r"the adapter shifts 'b.fc.bias', which the base has not; apply it to the model that it was trained on",
    ),
    (
        base(more={"q.weight": torch.zeros(4, 6, dtype=torch.int8)}),
        low_rank({"q": (4, 6)}),
        r"the adapter updates 'q.weight', where the base holds I8, expected floats; open the base unquantised",
    ),
]


@pytest.mark.parametrize(("model", "adapter", "message"), WRONG, ids=range(len(WRONG)))
def test_adapters_that_do_not_fit_have_one_line_each(model: Checkpoint, adapter: Checkpoint, message: str) -> None:
    with pytest.raises(MergeError) as caught:
        apply_adapter(model, adapter)
    assert re.search(message, str(caught.value)) and "\n" not in str(caught.value)


def test_the_base_s_path_is_named(tmp_path: Path) -> None:
    model = ws.open(ws.save(base().state_dict(), tmp_path / "model.safetensors"))
    with pytest.raises(MergeError, match=r"fits nothing in the base at .*model.safetensors"):
        apply_adapter(model, low_rank({"z.q": (4, 6)}))


def test_loralib_s_roberta_on_an_encoder_without_its_head(real_checkpoints: Path) -> None:
    adapter = ws.open(real_checkpoints / "microsoft-lora" / "roberta_base_lora_mnli.bin")
    place = "encoder.layer.{}.attention.self.{}.weight"
    names = [place.format(layer, part) for layer in range(12) for part in ("query", "key", "value")]
    model = Checkpoint.of({name: drawn(768, 768) for name in names})
    applied = apply_adapter(model, adapter, alpha=16.0)
    changed = [name for name in names if not torch.equal(applied[name], model[name])]
    assert changed == [name for name in names if "key" not in name]
    found, stored = place.format(7, "query"), "roberta.encoder.layer.7.attention.self.query"
    expected = model[found].double() + 2 * adapter[f"{stored}.lora_B"].double() @ adapter[f"{stored}.lora_A"].double()
    assert float((applied[found] - expected).norm() / expected.norm()) < 1e-6
    assert torch.equal(applied["classifier.dense.weight"], adapter["classifier.dense.weight"])


def test_cloneofsimo_s_text_encoder_by_names(real_checkpoints: Path) -> None:
    adapter = ws.open(real_checkpoints / "cloneofsimo-lora" / "lora_disney.safetensors")
    # The order in which the library meets the linear modules of CLIP's attentions.
    parts = [f"text_model.encoder.layers.{i // 4}.self_attn.{('k_proj', 'v_proj', 'q_proj', 'out_proj')[i % 4]}.weight" for i in range(48)]
    model = Checkpoint.of({name: drawn(768, 768) for name in parts})
    with pytest.raises(MergeError, match="its modules are numbered, not named: pass names= with the base's tensor for each"):
        apply_adapter(model, adapter)
    applied = apply_adapter(model, adapter, names={f"text_encoder:{i}": name for i, name in enumerate(parts)})
    expected = model[parts[5]] + adapter["text_encoder:5:up"] @ adapter["text_encoder:5:down"]
    assert torch.allclose(applied[parts[5]], expected, atol=1e-6) and list(applied) == parts
