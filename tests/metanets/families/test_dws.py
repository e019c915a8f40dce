"""Deep weight-space networks: their pooling and set layers, and which architectures they refuse."""

import pytest
import torch

from tests.metanets.architectures import architecture
from tests.metanets.families.test_unf import invariance_error
from weightspace.errors import MetanetError
from weightspace.metanets import build


@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.parametrize("set_layer", ["deepsets", "attention"])
def test_every_kind_is_invariant_and_learns_with_every_weight(pooling: str, set_layer: str) -> None:
    torch.manual_seed(0)
    net = build("dws", architecture("tanh mlp").spec, pooling=pooling, set_layer=set_layer, channels=8)
    assert invariance_error(net, "tanh mlp") < 1e-10
    net(architecture("tanh mlp").batch(4)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_maximum_is_not_a_mean() -> None:
    batch, vectors = architecture("mlp").batch(2), []
    for pooling in ("max", "mean"):
        torch.manual_seed(0)
        vectors.append(build("dws", architecture("mlp").spec, pooling=pooling).double().eval()(batch))
    assert not torch.allclose(vectors[0], vectors[1], rtol=1e-3)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        ("cnn", {}, "metanet 'dws' reads MLPs, but 'conv1.weight' has 9 values at each place; use 'nfn' or 'unf'"),
        ("lstm", {}, "metanet 'dws' reads chains of linear and convolutional layers, but .* is indexed by lstm x lstm; use 'unf'"),
        ("mlp", {"pooling": "sum"}, "metanet 'dws' has pooling 'sum'; expected one of: max, mean"),
        ("mlp", {"set_layer": "sab"}, "metanet 'dws' has set_layer 'sab'; expected one of: deepsets, attention"),
    ],
)
def test_what_it_cannot_read_is_refused(kind: str, settings: dict[str, str], message: str) -> None:
    with pytest.raises(MetanetError, match=message):
        build("dws", architecture(kind).spec, **settings)
