"""Universal Neural Functionals: settings, inputs at scale, and what they refuse."""

import pytest
import torch

import weightspace as ws
from tests.metanets.architectures import architecture
from weightspace.errors import MetanetError
from weightspace.metanets import EquivariantMetaNet, MetaNet, WeightBatch, WeightSet, build
from weightspace.spec import SymmetrySpec


def invariance_error(net: MetaNet, kind: str) -> float:
    one = architecture(kind)
    batch, net = one.batch(2), net.double().eval()
    element = one.spec.with_groups(**{name: {"symmetry": "none"} for name in one.spec.groups}).random(torch.Generator().manual_seed(1))
    states = [ws.act(element, {name: tensor[at] for name, tensor in batch.tensors.items()}) for at in range(2)]
    with torch.no_grad():
        moved = net(WeightBatch.stack(states, one.spec, dtype=torch.float64))
        return float((moved - net(batch)).norm() / net(batch).norm())


@pytest.mark.parametrize("kind", ["mlp", "cnn", "lstm", "transformer"])
@pytest.mark.parametrize(("endpoints", "codes"), [("fold", "learned"), ("code", "learned"), ("code", "sinusoidal")])
def test_vectors_are_invariant_whatever_becomes_of_inputs_and_outputs(kind: str, endpoints: str, codes: str) -> None:
    torch.manual_seed(0)
    net = build("unf", architecture(kind).spec, endpoints=endpoints, codes=codes, channels=8)
    assert invariance_error(net, kind) < 1e-10


@pytest.mark.parametrize("codes", ["learned", "sinusoidal"])
def test_codes_tell_inputs_apart(codes: str) -> None:
    torch.manual_seed(0)
    net = build("unf", architecture("mlp").spec, endpoints="code", codes=codes).double().eval()
    batch = architecture("mlp").batch(1)
    swapped = {**batch.tensors, "fc1.weight": batch.tensors["fc1.weight"].flip(2)}
    with torch.no_grad():
        assert not torch.allclose(net(batch), net(WeightBatch(batch.layout, swapped)), rtol=1e-3)


def test_wide_inputs_are_not_folded_unless_asked_for() -> None:
    spec = SymmetrySpec.parse({"1.weight": "h 100", "2.weight": "10 h"}, sizes={"h": 4})
    sizes = {how: sum(p.numel() for p in build("unf", spec, channels=4, endpoints=how).parameters()) for how in ("auto", "fold", "code")}
    assert sizes["code"] < sizes["auto"] < sizes["fold"]


def test_it_reads_a_single_matrix_without_anything_that_permutes() -> None:
    spec = SymmetrySpec.parse({"weight": "3 2"})
    assert build("unf", spec)(WeightBatch.stack([{"weight": torch.randn(3, 2)}], spec)).shape == (1, 64)


def test_inputs_are_brought_to_one_scale() -> None:
    one = architecture("cnn")
    torch.manual_seed(0)
    net = build("unf", one.spec).eval()
    batch = one.batch(8, dtype=torch.float32)
    shrunk = WeightBatch(batch.layout, {name: 1e-3 * tensor for name, tensor in batch.tensors.items()})
    net.fit_inputs(WeightSet.grouped([batch]))
    expected = net(batch)
    net.fit_inputs(WeightSet.grouped([shrunk]))
    assert torch.allclose(net(shrunk), expected, atol=1e-4)


def test_biases_that_are_all_alike_stay_finite() -> None:
    one = architecture("mlp")
    batch = one.batch(4, dtype=torch.float32)
    flat = WeightBatch(batch.layout, {**batch.tensors, "fc1.bias": torch.zeros_like(batch.tensors["fc1.bias"])})
    net = build("unf", one.spec)
    net.fit_inputs(WeightSet.grouped([flat]))
    assert net(flat).isfinite().all()


def test_features_are_those_of_each_place() -> None:
    net = build("unf", architecture("transformer").spec, channels=8)
    assert isinstance(net, EquivariantMetaNet)
    features = net.features(architecture("transformer").batch(2, dtype=torch.float32))
    assert features["block.self_attn.out_proj.weight"].shape == (2, 8, 2, 4, 8)


def test_half_precision_gives_about_the_same() -> None:
    torch.manual_seed(0)
    net, batch = build("unf", architecture("mlp").spec).eval(), architecture("mlp").batch(3, dtype=torch.float32)
    with torch.no_grad():
        expected = net(batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.allclose(net(batch).float(), expected, atol=0.1)


def test_another_architecture_is_refused() -> None:
    net = build("unf", architecture("mlp").spec)
    with pytest.raises(MetanetError, match=r"built for tensor 'fc1.weight' as \(5, 3, 1\), found \(6, 3, 1\); build one for this"):
        net(architecture("wide mlp").batch(1, dtype=torch.float32))
    with pytest.raises(MetanetError, match=r"built for tensor 'fc1.weight' as \(5, 3, 1\), found none"):
        net(architecture("residual").batch(1, dtype=torch.float32))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"endpoints": "both"}, "metanet 'unf' has endpoints 'both'; expected one of: auto, fold, code"),
        ({"codes": "random"}, "metanet 'unf' has codes 'random'; expected one of: learned, sinusoidal"),
    ],
)
def test_unknown_words_are_refused(settings: dict[str, str], message: str) -> None:
    with pytest.raises(MetanetError, match=message):
        build("unf", architecture("mlp").spec, **settings)


def test_it_is_built_for_one_architecture() -> None:
    with pytest.raises(MetanetError, match="metanet 'unf' reads one architecture, found 2; build one for each"):
        build("unf", [architecture("mlp").spec, architecture("cnn").spec])
