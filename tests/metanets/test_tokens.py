"""Tokens: networks come back as they were, and every value is in one token once."""

import pytest
import torch

from tests.metanets.architectures import ARCHITECTURES, architecture
from weightspace.metanets import WeightBatch
from weightspace.metanets.tokens import detokenise, layers, longest_row, tokenise
from weightspace.spec import SymmetrySpec


@pytest.mark.parametrize("size", [1, 3, 64])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_cut_and_put_together_networks_are_the_same(name: str, size: int) -> None:
    batch = architecture(name).batch(2)
    tokens = tokenise(batch, size)
    back = detokenise(tokens.values, batch)
    assert all(torch.equal(back.tensors[one], tensor) for one, tensor in batch.tensors.items())
    assert int(tokens.is_real.sum()) == batch.num_params and tokens.is_real.any(1).all()
    assert not tokens.values[:, ~tokens.is_real].any()


def test_a_row_holds_what_belongs_to_one_output() -> None:
    batch = architecture("cnn").batch(1)
    assert layers(batch)[1] == ["bn1.weight", "bn1.bias", "bn1.running_mean", "bn1.running_var"]
    tokens = tokenise(batch, 19)
    conv = torch.cat([batch.tensors["conv1.weight"][0, 2].flatten(), batch.tensors["conv1.bias"][0, 2:3]])
    assert torch.equal(tokens.values[0, 2], conv) and int(tokens.lengths[2]) == 19
    norm = torch.stack([batch.tensors[name][0, 1] for name in layers(batch)[1]])
    assert torch.equal(tokens.values[0, 5, :4], norm) and tokens.positions[5].tolist() == [5, 1, 1]
    assert longest_row([(name, batch.spec.shape(name)) for name in batch.spec.tensors]) == 19


def test_a_single_number_is_a_row_and_an_empty_tensor_none() -> None:
    spec = SymmetrySpec.parse({"scale": "", "empty.weight": "0 3", "fc.bias": "2"})
    batch = WeightBatch.stack([{"scale": torch.tensor(3.0), "empty.weight": torch.zeros(0, 3), "fc.bias": torch.ones(2)}], spec)
    tokens = tokenise(batch, 2)
    assert tokens.values.tolist() == [[[3, 0], [1, 0], [1, 0]]]
    assert {name: tensor.shape for name, tensor in detokenise(tokens.values, batch).tensors.items()} == {
        name: tensor.shape for name, tensor in batch.tensors.items()
    }
