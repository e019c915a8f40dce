"""Probes: shapes, the generator's layers, and what specs tell of inputs and outputs."""

import pytest
import torch
from torch import nn

from tests.metanets.architectures import architecture
from weightspace.errors import MetanetError
from weightspace.metanets import Layout
from weightspace.metanets.probes import Generator, Noise, input_shape, output_size
from weightspace.spec import SymmetrySpec


@pytest.mark.parametrize("inputs", [(7,), (1, 40), (2, 5, 5), (3, 32, 32), (1, 28, 20), (1, 3, 9, 9)])
def test_probes_have_the_shape_of_inputs_and_differ(inputs: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    probes = Generator(6, inputs, scale=2.0)()
    assert probes.shape == (6, *inputs)
    assert 0.1 < float(probes.detach().std(0).mean()) < 4
    assert len(inputs) == 1 or float(probes.detach().abs().max()) <= 2
    assert Noise(6, inputs)().shape == (6, *inputs)


def test_images_of_32_are_made_by_the_five_layers_of_the_paper() -> None:
    layers = [layer for layer in Generator(2, (3, 32, 32)).layers if isinstance(layer, nn.ConvTranspose2d)]
    assert [(layer.in_channels, layer.out_channels, layer.kernel_size[0], layer.stride[0]) for layer in layers] == [
        (32, 128, 4, 1), (128, 64, 4, 2), (64, 32, 4, 2), (32, 16, 4, 2), (16, 3, 3, 1)
    ]  # fmt: skip


def test_the_generator_is_linear_in_its_latents_up_to_the_last_tanh() -> None:
    torch.manual_seed(0)
    generator = Generator(3, (1, 8, 8))
    with torch.no_grad():
        once = torch.atanh(generator().double())
        generator.latents.mul_(0.5)
        torch.testing.assert_close(torch.atanh(generator().double()), once / 2, atol=1e-4, rtol=1e-4)


def test_noise_is_the_same_every_time_and_has_nothing_to_learn() -> None:
    noise = Noise(4, (3,))
    assert torch.equal(noise(), noise()) and not list(noise.parameters()) and "values" in noise.state_dict()


def test_more_than_three_sides_are_refused() -> None:
    with pytest.raises(MetanetError, match="4 sides; expected channels and at most three sides"):
        Generator(2, (1, 2, 2, 2, 2))


def test_specs_tell_the_shapes_of_vectors_alone() -> None:
    mlp, cnn = Layout.of(architecture("mlp").spec), Layout.of(architecture("cnn").spec)
    assert input_shape([mlp], "p") == (3,) and output_size([mlp, cnn], "p") == 2
    with pytest.raises(MetanetError, match=r"'p' cannot tell the shape of the networks' inputs from their specs; give inputs=\[\.\.\.\]"):
        input_shape([cnn], "p")
    with pytest.raises(MetanetError, match="cannot tell the number of the networks' outputs"):
        output_size([mlp, Layout.of(architecture("siren").spec)], "p")
    assert input_shape([cnn], "p", [2, 5, 5]) == (2, 5, 5)
    with pytest.raises(MetanetError, match=r"'p' was given inputs=\[2, 0\]; expected the shape of one input"):
        input_shape([mlp], "p", [2, 0])
    hidden = Layout.of(SymmetrySpec.parse({"a.weight": "h g"}, sizes={"h": 2, "g": 3}))
    with pytest.raises(MetanetError, match="inputs"):
        input_shape([hidden], "p")
    with pytest.raises(MetanetError, match="outputs"):
        output_size([hidden], "p")
