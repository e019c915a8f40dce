"""Which tensors of a checkpoint are layers, and how each lies as (out, in)."""

from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.analysis.layers import Layer, common, layers
from weightspace.checkpoint import Checkpoint


def test_what_is_no_matrix_is_no_layer() -> None:
    tied = torch.ones(5, 2)
    tensors = {
        "embed.weight": tied,
        "conv.weight": torch.ones(4, 3, 3, 3),
        "scale": torch.ones(1, 1, 8),
        "norm.weight": torch.ones(4),
        "codes": torch.ones(3, 3, dtype=torch.int32),
        "none": torch.ones(0, 3),
        "fc.weight": torch.ones(6, 4, dtype=torch.bfloat16),
        "lm_head.weight": tied,
    }
    found = layers(Checkpoint.of(tensors))
    assert [(one.name, one.kind, one.size) for one in found] == [("conv.weight", "kernel", (4, 27)), ("fc.weight", "dense", (6, 4))]
    assert [one.name for one in layers(Checkpoint.of(tensors), embeddings=True)] == ["embed.weight", "conv.weight", "fc.weight"]


def test_a_matrix_is_out_by_in_however_it_is_stored() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    [plain] = layers(Checkpoint.of({"fc.weight": weight, "fc.bias": torch.ones(2)}))
    [turned] = layers(Checkpoint.of({"fc.weight": weight, "fc.bias": torch.ones(3)}))
    assert (plain.size, turned.size) == ((2, 3), (3, 2))
    assert torch.equal(plain.matrix(weight), weight) and torch.equal(turned.matrix(weight), weight.T)


@pytest.mark.parametrize("layer", [Layer("k", "kernel", (4, 3, 2, 5)), Layer("k", "kernel", (2, 5, 3, 4), is_transposed=True)])
def test_a_kernel_s_matrix_goes_back_into_its_tensor(layer: Layer) -> None:
    tensor = torch.randn(layer.shape, dtype=torch.float16)
    matrix = layer.matrix(tensor)
    assert matrix.dtype == torch.float32 and matrix.shape == layer.size and layer.size[0] == 4
    assert torch.equal(layer.tensor(matrix), tensor.float())


def test_common_layers_agree_in_name_and_shape() -> None:
    a = Checkpoint.of({"x": torch.ones(2, 2), "y": torch.ones(2, 3), "z": torch.ones(2, 2)})
    b = Checkpoint.of({"z": torch.ones(2, 2), "y": torch.ones(3, 2), "x": torch.zeros(2, 2)})
    assert [one.name for one in common([a, b])] == ["x", "z"]


def test_layers_of_real_networks(real_checkpoints: Path) -> None:
    keras = layers(ws.open(real_checkpoints / "textgenrnn" / "base.hdf5"))
    assert keras[1].size == (465, 356) and keras[2].size == (512, 100)  # the output's kernel is (in, out), the embedding is none
    assert "embedding/embedding/embeddings:0" not in [one.name for one in keras]
    torch_net = layers(ws.open(real_checkpoints / "outlier-exposure" / "baseline_epoch_9.pt"))
    assert [one.size for one in torch_net] == [(10, 25), (20, 250), (50, 320), (10, 50)]


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
)
def test_a_matrix_of_eight_bits_is_laid_out_in_float32(dtype: torch.dtype) -> None:
    stored = torch.tensor([[1.0, 2.0], [4.0, 0.5], [8.0, 1.0]])
    [layer] = layers(Checkpoint.of({"fc.weight": stored.to(dtype)}))
    assert layer.matrix(stored.to(dtype)).dtype == torch.float32 and torch.equal(layer.matrix(stored.to(dtype)), stored)
