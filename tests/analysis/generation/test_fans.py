"""Fan-in: against torch where that counts the terms of a sum, and against a count of them where it does not."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from weightspace.analysis.generation import Material, Target, fit, load_generator, sample, save_generator
from weightspace.analysis.generation.fans import PLAIN, Fan, fans_of
from weightspace.analysis.generation.graphs.decoder import orders_of
from weightspace.analysis.generation.graphs.normalisation import normalised
from weightspace.analysis.generation.graphs.reading import read
from weightspace.analysis.generation.hypernetworks.initialisation import spreads
from weightspace.task import Task

PLAIN_LAYERS = [
    nn.Linear(5, 7),
    nn.Conv1d(4, 6, 3, stride=2),
    nn.Conv2d(4, 6, (3, 2)),
    nn.Conv2d(6, 9, 3, groups=3),
    nn.Conv2d(6, 6, 3, groups=6),
    nn.Conv3d(2, 3, 2),
    nn.Bilinear(2, 3, 4),
]
TRANSPOSED_LAYERS = [
    nn.ConvTranspose1d(4, 6, 3),
    nn.ConvTranspose2d(4, 6, 3),
    nn.ConvTranspose2d(6, 9, (4, 2), groups=3),
    nn.ConvTranspose2d(4, 6, 4, stride=2),
    nn.ConvTranspose2d(4, 8, 3, stride=2, groups=4),
    nn.ConvTranspose3d(2, 3, 2),
]


@pytest.mark.parametrize("layer", PLAIN_LAYERS, ids=repr)
def test_fan_in_is_torchs_where_torch_counts_terms(layer: Any) -> None:
    expected, _ = nn.init._calculate_fan_in_and_fan_out(layer.weight)
    assert Fan.of(layer) == PLAIN and PLAIN.of_shape(layer.weight.shape) == expected


@pytest.mark.parametrize("layer", TRANSPOSED_LAYERS, ids=repr)
def test_fan_in_of_a_transposed_convolution_is_the_terms_of_an_output(layer: Any) -> None:
    """Ones in, ones as weights: each output is the number of its terms."""
    dimensions = layer.weight.ndim - 2
    with torch.no_grad():
        layer.weight.fill_(1)
        terms = layer.__class__.forward(layer, torch.ones(1, layer.in_channels, *[8] * dimensions)) - layer.bias.reshape(
            -1, *[1] * dimensions
        )
    inner = [slice(4, 4 + 2 * stride) for stride in layer.stride]  # whole strides, away from the rim
    assert Fan.of(layer).of_shape(layer.weight.shape) == pytest.approx(float(terms[(0, 0, *inner)].mean()))
    wrong, _ = nn.init._calculate_fan_in_and_fan_out(layer.weight)
    assert wrong == math.prod(layer.weight.shape[1:])


def test_fan_in_of_an_embedding_is_the_one_row_that_is_looked_up() -> None:
    layer = nn.Embedding(11, 5)
    assert Fan.of(layer).of_shape(layer.weight.shape) == 1
    assert spreads(Target.of_module(layer)).tolist() == [1.0] * 55  # as torch draws it


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(64, 40), nn.Conv2d(16, 12, 3, groups=4), nn.ConvTranspose2d(32, 12, 3), nn.ConvTranspose2d(32, 12, 4, stride=2)],
    ids=repr,
)
def test_spreads_keep_the_size_of_what_was_rectified(layer: Any) -> None:
    """He's variance: outputs have the second moment that inputs had before they were cut off at zero."""
    torch.manual_seed(0)
    target = Target.of_module(layer)
    own = target.tensors(spreads(target) * torch.randn(200, target.numel))
    inputs = torch.randn(
        64, *({"Linear": (64,)}.get(type(layer).__name__) or (layer.weight.shape[0] if "T" in type(layer).__name__ else 16, 10, 10))
    )
    weights = {"weight": own["weight"][0], "bias": torch.zeros(len(own["bias"][0]))}
    outputs = torch.func.functional_call(layer, weights, (inputs.relu(),))
    middle = outputs if outputs.ndim == 2 else outputs[:, :, 4:8, 4:8]
    assert float(middle.square().mean()) == pytest.approx(1, rel=0.25)


class Upsampling(nn.Module):
    """Embeddings and both kinds of convolution; the last layer is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.table, self.head = nn.ConvTranspose1d(6, 4, 2, stride=2), nn.Embedding(9, 6), nn.Linear(4, 9)
        self.tied, self.out = nn.Embedding(9, 4), nn.Linear(4, 9, bias=False)
        self.out.weight = self.tied.weight

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        found = self.up(self.table(tokens).mT).mT.relu()
        made: torch.Tensor = self.head(found) + self.out(found + self.tied(tokens).mean(1, keepdim=True))
        return made


def test_a_module_says_which_of_its_weights_are_not_plain() -> None:
    assert dict(fans_of(Upsampling())) == {"up.weight": Fan("transposed", 2), "table.weight": Fan("table")}
    target = Target.of_module(Upsampling())
    assert [target.fan_in(name) for name in ("up.weight", "table.weight", "head.weight", "tied.weight")] == [6, 1, 4, 4]


def test_a_decoder_normalises_by_the_same_fan_in() -> None:
    module = Upsampling()
    orders = {order.shape: order for order in orders_of(read(module, torch.zeros(1, 3, dtype=torch.long)), Target.of_module(module), 0)}
    up = orders[(6, 4, 2)]
    made = normalised(torch.ones(up.shape), up.role, up.shape, up.fan)
    torch.testing.assert_close(made, torch.full(up.shape, math.sqrt(2 / 6)))


def test_a_saved_generator_knows_them(tmp_path: Path) -> None:
    task = Task(
        Upsampling(), [(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 6, 9))], lambda made, batch: (made - batch[1]).square().mean()
    )
    made = fit("ghn", Material(Target.of_module(task.module), tasks=[task]), steps=1, hidden=8, max_channels=4, decoder_width=8)
    loaded = load_generator(save_generator(made, tmp_path / "g.safetensors"))
    assert dict(loaded.target.fans) == dict(made.target.fans) != {}
    assert all(torch.equal(tensor, sample(loaded)[name]) for name, tensor in sample(made).items())
