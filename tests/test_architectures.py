"""The families that come with the package: recognised, proved on small instances, equal to golden tables and to what tracing finds."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import weightspace as ws
from tests.families import TINY, Tiny
from weightspace.architectures import families, spec_for, variants
from weightspace.errors import SymmetryError
from weightspace.proof import prove
from weightspace.spec import SymmetrySpec
from weightspace.spec_sizes import headers
from weightspace.symmetry import act
from weightspace.tracing import trace

GOLDEN: Mapping[str, Any] = yaml.safe_load((Path(__file__).parent / "golden" / "groups.yaml").read_text())
TRACED = ("llama", "vit")
PROVED = (
    "bert_classifier", "clip", "convnext", "convnext_timm", "gpt2", "gpt_neox", "llama", "resnet_bottleneck", "resnet_cifar_a",
    "resnet_transformers_wide", "roberta", "t5_gated", "tiny10", "vgg_norm", "vit", "vit_timm", "vit_torchvision",
)  # fmt: skip
KEY_BIAS = re.compile(r"(key|k_proj)\.bias|(c_attn|query_key_value|qkv|in_proj).*bias")


@cache
def tiny(name: str) -> Tiny:
    return TINY[name]()


@cache
def spec_of(name: str) -> SymmetrySpec:
    return spec_for(tiny(name).module.state_dict(), tiny(name).config)


@cache
def traced(name: str) -> SymmetrySpec:
    return trace(tiny(name).module, *tiny(name).inputs)


def table(spec: SymmetrySpec) -> Counter[tuple[Any, ...]]:
    """Sizes, kinds, symmetries and copies of the groups that move."""
    return Counter((g.size, g.kind, g.symmetry, spec.copies(g.name)) for g in spec.movable)


def golden(name: str) -> Counter[tuple[Any, ...]]:
    made: Counter[tuple[Any, ...]] = Counter()
    for row in GOLDEN[name]["groups"]:
        kind = "fixed" if row.get("fixed") else "permutable"
        made[row["size"], kind, row.get("symmetry", "none"), row.get("copies", 1)] += row["count"]
    return made


def test_an_instance_of_every_family_is_proved_by_default() -> None:
    def family(name: str) -> str:
        known = headers(tiny(name).module.state_dict())
        return next(variant.family for variant in variants() if any(True for _ in variant.prefixes(known)))

    assert sorted(map(family, PROVED)) == sorted(families())


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in PROVED else pytest.mark.slow) for name in TINY])
def test_shipped_spec_is_proved_on_a_small_instance(name: str) -> None:
    one, spec = tiny(name), spec_of(name)
    proved = prove(spec, one.module, *one.inputs, draws=1)
    assert proved.proved and proved.groups == spec.groups, proved.notes
    # A key's bias adds the same to every score of a query, which softmax does not see: that it moves cannot matter.
    assert all(KEY_BIAS.search(note) for note in proved.notes[len(spec.notes) :]), proved.notes


@pytest.mark.parametrize("name", GOLDEN)
def test_groups_are_those_worked_out_by_hand(name: str) -> None:
    spec = spec_of(name)
    assert table(spec) == golden(name)
    assert spec.log2_order == pytest.approx(GOLDEN[name]["log2_order"], abs=0.1) and spec.dimension == GOLDEN[name]["dimension"]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in TRACED else pytest.mark.slow) for name in GOLDEN])
def test_trace_finds_the_groups_worked_out_by_hand(name: str) -> None:
    assert table(traced(name)) == golden(name)
    assert traced(name).log2_order == pytest.approx(GOLDEN[name]["log2_order"], abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TINY if name not in GOLDEN])
def test_trace_finds_the_groups_of_the_shipped_spec(name: str) -> None:
    assert table(traced(name)) == table(spec_of(name))


def test_every_variant_has_a_small_instance() -> None:
    used = set()
    for name in TINY:
        known = headers(tiny(name).module.state_dict())
        first = next(variant for variant in variants() if any(True for _ in variant.prefixes(known)))
        used.add((first.recognised, first.absent))
    missing = {(variant.recognised, variant.absent) for variant in variants()} - used
    # Names under which transformers stores a ViT; its module has others.
    assert [one[2].text for one, _ in missing] == ["encoder.layer.{i}.attention.attention.query.weight"]


def test_vit_is_the_same_under_the_names_in_files() -> None:
    renames = {
        r"\.layers\.(\d+)\.attention\.o_proj": r".encoder.layer.\1.attention.output.dense",
        r"\.layers\.(\d+)\.mlp\.fc1": r".encoder.layer.\1.intermediate.dense",
        r"\.layers\.(\d+)\.mlp\.fc2": r".encoder.layer.\1.output.dense",
        r"\.layers\.(\d+)\.layernorm": r".encoder.layer.\1.layernorm",
        **{rf"\.layers\.(\d+)\.attention\.{a}_proj": rf".encoder.layer.\1.attention.attention.{b}" for a, b in (("q", "query"), ("k", "key"), ("v", "value"))},
    }  # fmt: skip

    def stored(name: str) -> str:
        for pattern, new in renames.items():
            name = re.sub(pattern, new, name)
        return name

    one = tiny("vit")
    spec = spec_for({stored(name): tensor for name, tensor in one.module.state_dict().items()}, one.config)
    assert spec.groups == spec_of("vit").groups
    assert {name: axes for name, axes in spec.tensors.items()} == {stored(name): axes for name, axes in spec_of("vit").tensors.items()}


@pytest.mark.parametrize("prefix", ["module.", "model.", "0.auto_model.", "_orig_mod.module.", "backbone.net."])
def test_prefix_makes_no_difference(prefix: str) -> None:
    one = tiny("bert")
    bare = {name.removeprefix("model."): tensor for name, tensor in one.module.state_dict().items()}
    plain, wrapped = spec_for(bare, one.config), spec_for({prefix + name: tensor for name, tensor in bare.items()}, one.config)
    assert plain.groups == wrapped.groups and wrapped.tensors == {prefix + name: axes for name, axes in plain.tensors.items()}


def test_heads_stand_beside_a_prefixed_body() -> None:
    state = {name.removeprefix("model."): tensor for name, tensor in tiny("llama").module.state_dict().items()}
    assert {"model.norm.weight", "lm_head.weight"} <= set(state)
    assert table(spec_for(state, tiny("llama").config)) == golden("llama")


def test_tied_head_may_be_left_out_of_the_file() -> None:
    one = tiny("bert_masked")
    state = dict(one.module.state_dict())
    tied = spec_for(state, one.config)
    assert tied.aliases["model.cls.predictions.decoder.weight"] == "model.bert.embeddings.word_embeddings.weight"
    del state["model.cls.predictions.decoder.weight"]
    assert spec_for(state, one.config).groups == tied.groups  # the transform's output is still the stream
    untied = {name: tensor.clone() for name, tensor in one.module.state_dict().items()}
    assert "transform" in spec_for(untied, one.config).groups


def test_elements_act_on_a_checkpoint_without_a_tied_head(generator: torch.Generator) -> None:
    one = tiny("llama_tied")
    state = {name: tensor for name, tensor in one.module.state_dict().items() if name != "model.lm_head.weight"}
    spec = spec_for(state, one.config)
    moved = act(spec.random(generator), state)
    assert set(moved) == set(state) and not torch.equal(moved["model.model.embed_tokens.weight"], state["model.model.embed_tokens.weight"])


def test_heads_that_nothing_tells_are_asked_for() -> None:
    state = tiny("bert").module.state_dict()
    message = (
        "the tensors look like BERT, but the spec of BERT: the shapes do not tell the size of group 'layer.0.head'; 'num_attention_heads' "
        "is in no config.json beside it: add one, or give sizes={'num_attention_heads': ...}"
    )
    with pytest.raises(SymmetryError, match=re.escape(message)):
        spec_for(state)
    with pytest.raises(SymmetryError, match=r"has size 48, which no size of 'layer.0.qk' gives with layer.0.head = 5"):
        spec_for(state, {"num_attention_heads": 5})


def test_almost_a_family_is_refused() -> None:
    state = tiny("resnet").module.state_dict()
    with pytest.raises(SymmetryError, match=r"look like ResNet.*tensor 'layer1.0.se.weight' of shape \[3, 3\] has no row"):
        spec_for({**state, "layer1.0.se.weight": torch.ones(3, 3)})
    lacking = {name: tensor for name, tensor in state.items() if name != "layer3.1.bn2.running_var"}
    with pytest.raises(SymmetryError, match=r"look like ResNet.*running_mean\|running_var}'|layer3.1.bn2"):
        act(spec_for(lacking).identity(), state)


def test_unknown_architecture_lists_the_families() -> None:
    with pytest.raises(SymmetryError, match=r"no family that comes with the package fits, and tensor 'a.emb' is no weight"):
        spec_for({"a.emb": torch.ones(2, 3)})
    assert len(families()) == len(set(families())) >= 15


def test_configuration_beside_a_checkpoint_tells_the_heads(tmp_path: Path) -> None:
    one = tiny("bert")
    path = ws.save({name.removeprefix("model."): t for name, t in one.module.state_dict().items()}, tmp_path / "model.safetensors", {})
    with pytest.raises(SymmetryError, match="num_attention_heads"):
        spec_for(ws.open(path))
    (tmp_path / "config.json").write_text('{"num_attention_heads": 4, "hidden_act": "relu"}')
    spec = spec_for(ws.open(path))
    assert spec.groups["layer.0.head"].size == 4 and spec.groups["layer.0.mlp"].symmetry == "scale"
    assert spec.notes == ("configuration: num_attention_heads = 4, hidden_act = relu",)


REAL = {
    "drfrankenstein/resnet20_cifar10_seed0.pt": (3 + 9, 448),
    "distiller/resnet20_dense.pth.tar": (3 + 9, 448),
    "akamaster/resnet20_cifar10.th": (5 + 9, 400),
    "akamaster/resnet56_cifar10.th": (5 + 27, 1072),
    "drfrankenstein/tiny10_cifar10_seed00.pt": (8, 320),
}


@pytest.mark.parametrize(("name", "groups", "dimension"), [(name, *facts) for name, facts in REAL.items()])
def test_real_checkpoints_have_their_family(real_checkpoints: Path, name: str, groups: int, dimension: int) -> None:
    spec = spec_for(ws.open(real_checkpoints / name))
    assert len(spec.movable) == groups and spec.dimension == dimension


def test_spec_outlives_writing(generator: torch.Generator) -> None:
    for name in ("llama", "clip", "resnet_cifar_a", "gpt_neox"):
        spec = spec_of(name)
        assert SymmetrySpec.from_yaml(spec.to_yaml()) == replace(spec, proved=False)
