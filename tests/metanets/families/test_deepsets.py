"""Deep sets: which input a weight touches makes a difference, which hidden neuron does not; so does the size of weights."""

from dataclasses import replace

import torch

from tests.laws.test_metanet_laws import difference
from tests.metanets.architectures import architecture
from weightspace.metanets import WeightBatch, build


def changed(batch: WeightBatch, name: str, tensor: torch.Tensor) -> WeightBatch:
    return replace(batch, tensors={**batch.tensors, name: tensor})


def test_inputs_outputs_and_cells_have_identity_and_hidden_neurons_none() -> None:
    torch.manual_seed(0)
    batch = architecture("cnn").batch(2)
    net = build("deepsets", batch.spec).double()
    first, last = batch.tensors["conv1.weight"], batch.tensors["fc.weight"]
    with torch.no_grad():
        expected = net(batch)
        assert difference(net(changed(batch, "conv1.weight", first.flip(1))), expected) < 1e-12
        moved = (first.flip(2), first.flip(3), first.flip(4))
        assert all(difference(net(changed(batch, "conv1.weight", one)), expected) > 1e-6 for one in moved)
        assert difference(net(changed(batch, "fc.weight", last.flip(1))), expected) > 1e-6


def test_scale_is_told_over_many_orders_of_magnitude() -> None:
    torch.manual_seed(0)
    batch = architecture("mlp").batch(2)
    net = build("deepsets", batch.spec).double()
    with torch.no_grad():
        expected = net(batch)
        for factor in (1e-4, 0.9, 1e4):
            found = net(changed(batch, "fc2.weight", batch.tensors["fc2.weight"] * factor))
            assert 1e-6 < difference(found, expected) < 10
        assert net(replace(batch, tensors={name: tensor * 0 for name, tensor in batch.tensors.items()})).isfinite().all()
