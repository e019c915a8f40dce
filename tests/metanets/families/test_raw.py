"""Raw weights: linear, standardised, of one architecture."""

import pytest
import torch

from tests.metanets.architectures import architecture
from weightspace.errors import MetanetError
from weightspace.metanets import WeightSet, build


def test_it_is_linear_in_standardised_weights() -> None:
    torch.manual_seed(0)
    batch = architecture("cnn").batch(9)
    net = build("raw", batch.spec, dim=3).double()
    net.fit_inputs(WeightSet.grouped([batch]))
    with torch.no_grad():
        vectors = net(batch)
        torch.testing.assert_close(vectors.mean(0), dict(net.named_parameters())["linear.bias"])
        flat = batch.flat()
        expected = ((flat - flat.mean(0)) / flat.std(0, correction=0)) @ dict(net.named_parameters())["linear.weight"].T
    torch.testing.assert_close(vectors - vectors.mean(0), expected)


def test_other_architectures_are_refused() -> None:
    mlp, wide = architecture("mlp"), architecture("wide mlp")
    with pytest.raises(MetanetError, match="'raw' reads one architecture, found 2; build one for each"):
        build("raw", [mlp.spec, wide.spec])
    with pytest.raises(MetanetError, match="was built for 54 parameters, found networks of 38"):
        build("raw", mlp.spec).double()(wide.batch(1))
