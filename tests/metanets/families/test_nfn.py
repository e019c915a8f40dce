"""Neural functional networks: what NP and HNP tell apart, and which architectures they refuse."""

import pytest
import torch

from tests.metanets.architectures import architecture
from tests.metanets.families.test_unf import invariance_error
from weightspace.errors import MetanetError
from weightspace.metanets import Layout, WeightBatch, build
from weightspace.metanets.equivariant.basis import Basis, foldable
from weightspace.metanets.equivariant.chain import chain
from weightspace.spec import SymmetrySpec


@pytest.mark.parametrize("kind", ["mlp", "cnn", "siren"])
@pytest.mark.parametrize("layer", ["NP", "HNP", "attention"])
def test_each_layer_is_invariant_and_tells_inputs_apart(layer: str, kind: str) -> None:
    torch.manual_seed(0)
    net = build("nfn", architecture(kind).spec, layer=layer, channels=8)
    assert invariance_error(net, kind) < 1e-10
    batch = architecture(kind).batch(1)
    first = next(iter(batch.tensors))
    with torch.no_grad():
        flipped = net(WeightBatch(batch.layout, {**batch.tensors, first: batch.tensors[first].flip(2)}))
        assert not torch.allclose(flipped, net(batch), rtol=1e-4)


def test_the_map_that_the_peer_forgets_is_there() -> None:
    layout = Layout.of(architecture("mlp").spec)
    assert Basis.of(layout, foldable(layout)).count("fc3.weight", "fc2.bias") == 2  # on the shared axis, and its mean


@pytest.mark.parametrize("layer", ["NP", "HNP", "attention"])
def test_gradients_reach_every_weight(layer: str) -> None:
    torch.manual_seed(0)
    net = build("nfn", architecture("cnn").spec, layer=layer, channels=8)
    net(architecture("cnn").batch(4, dtype=torch.float32)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_chain_is_read_from_inputs_to_outputs() -> None:
    assert chain("nfn", Layout.of(architecture("cnn").spec)) == ("in", "conv1", "conv2", "out")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"a": "h 2", "b": "h 3"}, "but its layers branch, meet or return; use 'unf'"),
        ({"a": "h 2", "b": "k 3"}, "but its layers branch, meet or return; use 'unf'"),
        ({"a": "h h"}, "but 'a' is indexed by h x h; use 'unf'"),
        ({"a": "h 2", "b": "k"}, "but 'b' stands on no neurons of it; use 'unf'"),
        ({"a": "h k", "b": "k h"}, "but its layers branch, meet or return"),
    ],
)
def test_what_is_no_chain_is_refused(tensors: dict[str, str], message: str) -> None:
    used = {word for axes in tensors.values() for word in axes.split() if word.isalpha()}
    with pytest.raises(MetanetError, match=f"metanet 'nfn' reads chains of linear and convolutional layers, {message}"):
        build("nfn", SymmetrySpec.parse(tensors, sizes=dict.fromkeys(used, 3)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": "PN"}, "metanet 'nfn' has layer 'PN'; expected one of: NP, HNP, attention"),
        ({"codes": "none"}, "metanet 'nfn' has codes 'none'; expected one of: learned, sinusoidal"),
        ({"layer": "attention", "heads": 3}, "attention of 32 channels cannot have 3 heads; the heads have to divide the channels"),
    ],
)
def test_unknown_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(MetanetError, match=message):
        build("nfn", architecture("mlp").spec, **settings)
