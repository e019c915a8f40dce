"""Views: other weights of the same function, and noise of the size asked for."""

import pytest
import torch

from tests.metanets.architectures import ARCHITECTURES, architecture
from weightspace.metanets.running import run
from weightspace.metanets.views import noised, reordered


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_reordered_networks_have_other_weights_and_the_same_function(name: str) -> None:
    kind = architecture(name)
    batch = kind.batch(2)
    view = reordered(batch, torch.Generator().manual_seed(3))
    assert not torch.equal(view.flat(), batch.flat())
    with torch.no_grad():
        expected = run(batch, kind.inputs)
        assert float((run(view, kind.inputs) - expected).norm() / expected.norm()) < 1e-5


def test_chance_comes_from_the_generator_alone() -> None:
    batch = architecture("tanh mlp").batch(1)
    views = [reordered(batch, torch.Generator().manual_seed(seed)).flat() for seed in (0, 0, 1)]
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])


def test_noise_multiplies() -> None:
    values = torch.tensor([0.0, 1.0, 1000.0]).repeat(10000, 1)
    made = noised(values, 0.1, torch.Generator().manual_seed(0))
    assert not made[:, 0].any() and float(made[:, 1].std()) == pytest.approx(0.1, rel=0.05)
    assert float(made[:, 2].std()) == pytest.approx(100, rel=0.05)
