"""P-diff on checkpoints of one run, beside the plain mean and the networks themselves."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weightspace.analysis.generation import Material, Target, WeightGenerator, fit, sample
from weightspace.analysis.generation.generators.pdiff import PDiff
from weightspace.errors import GenerationError, UnknownNameError
from weightspace.metanets import WeightBatch
from weightspace.spec import SymmetrySpec
from weightspace.zoo.populations.data import load

SETTINGS: dict[str, Any] = {
    "latent": 8,
    "hidden": 64,
    "autoencoder_steps": 150,
    "steps": 300,
    "timesteps": 50,
    "last_noise": 0.2,
    "blocks": 2,
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run_of(hidden: int, checkpoints: int, after: int) -> tuple[WeightBatch, Tensor, Tensor]:
    """Networks at consecutive steps of one run on digits, and the images that they are judged by."""
    data, generator = load("digits"), seeded()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))
    optimizer, kept = torch.optim.Adam(net.parameters(), lr=1e-2), []
    for step in range(after + checkpoints):
        batch = torch.randint(len(data.train), (16,), generator=generator)
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(net(data.train[batch]), data.train_classes[batch]))
        optimizer.step()
        if step >= after:
            kept.append({name: tensor.detach().clone() for name, tensor in net.state_dict().items()})
    axes = {"0.weight": "h i", "0.bias": "h", "2.weight": "o h", "2.bias": "o"}
    return WeightBatch.stack(kept, SymmetrySpec.parse(axes, sizes={"h": hidden, "i": 64, "o": 10})), data.test, data.test_classes


def accuracy(tensors: dict[str, Tensor], inputs: Tensor, classes: Tensor) -> Tensor:
    hidden = torch.relu(torch.einsum("ni,khi->knh", inputs, tensors["0.weight"]) + tensors["0.bias"][:, None])
    logits = torch.einsum("knh,koh->kno", hidden, tensors["2.weight"]) + tensors["2.bias"][:, None]
    return (logits.argmax(-1) == classes).float().mean(1)


def mean_of(networks: WeightBatch) -> dict[str, Tensor]:
    return {name: tensor.mean(0, keepdim=True) for name, tensor in networks.tensors.items()}


@pytest.fixture(scope="module")
def fitted() -> tuple[WeightGenerator, WeightBatch, Tensor, Tensor]:
    networks, inputs, classes = run_of(hidden=8, checkpoints=60, after=200)
    return fit("pdiff", Material(Target.of_networks(networks), networks), **SETTINGS), networks, inputs, classes


def test_what_is_made_is_as_good_as_the_run(fitted: tuple[WeightGenerator, WeightBatch, Tensor, Tensor]) -> None:
    made, networks, inputs, classes = fitted
    zoo = accuracy(dict(networks.tensors), inputs, classes).mean()
    drawn = accuracy(sample(made, 40), inputs, classes)
    assert zoo > 0.8
    assert drawn.mean() > zoo - 0.01
    assert (drawn > zoo - 0.1).all()


def test_what_is_made_spreads_as_the_run_does_and_is_no_copy(fitted: tuple[WeightGenerator, WeightBatch, Tensor, Tensor]) -> None:
    made, networks, _, _ = fitted
    flat = made.target.flat(networks.tensors)
    drawn = made.target.flat(sample(made, 60))
    ratio = (drawn - flat.mean(0)).norm(dim=1).median() / (flat - flat.mean(0)).norm(dim=1).median()
    assert 0.6 < ratio < 1.2  # the mean alone would have 0
    assert torch.cdist(drawn, flat).min() > 0


def test_the_autoencoder_tells_the_run_apart(fitted: tuple[WeightGenerator, WeightBatch, Tensor, Tensor]) -> None:
    made, networks, _, _ = fitted
    assert isinstance(made, PDiff)
    rows = made.standard.shrink(made.target.flat(networks.tensors))
    with torch.no_grad():
        error = (made.autoencoder.decode(made.autoencoder.encode(rows)) - rows).square().mean()
    assert error < 0.3  # that of the mean is 1


def test_fewer_steps_of_sampling_without_noise_do_too(fitted: tuple[WeightGenerator, WeightBatch, Tensor, Tensor]) -> None:
    made, networks, inputs, classes = fitted
    assert isinstance(made, PDiff)
    latents = made.diffusion.sample(20, steps=10, eta=0.0, generator=seeded())
    with torch.no_grad():
        quick = made.target.tensors(made.standard.grow(made.autoencoder.decode(latents)))
    assert accuracy(quick, inputs, classes).median() > accuracy(dict(networks.tensors), inputs, classes).median() - 0.03


def test_progress_goes_through_both_parts() -> None:
    networks, _, _ = run_of(hidden=2, checkpoints=4, after=0)
    told: list[tuple[int, int]] = []
    tiny = {**SETTINGS, "autoencoder_steps": 2, "steps": 3, "batch_size": 8}
    fit("pdiff", Material(Target.of_networks(networks), networks), progress=lambda done, total: told.append((done, total)), **tiny)
    assert told == [(done, 5) for done in range(1, 6)]


def test_one_network_alone_comes_back() -> None:
    networks, _, _ = run_of(hidden=2, checkpoints=1, after=0)
    made = sample(fit("pdiff", Material(Target.of_networks(networks), networks), **{**SETTINGS, "autoencoder_steps": 2, "steps": 2}))
    assert all(torch.equal(made[name], tensor) for name, tensor in networks.tensors.items())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"schedule": "cosin"}, UnknownNameError, "no noise schedule named 'cosin'; did you mean 'cosine'"),
        ({"timesteps": 0}, GenerationError, "setting 'timesteps' of generator 'pdiff' is 0; expected a whole number from 1 to 10,000"),
        ({"first_noise": 0.5}, GenerationError, "noise from 0.5 to 0.2 a step; give rising shares between 0 and 1"),
        ({"learning_rate": 1e30}, GenerationError, "lower the learning rate"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], error: type[Exception], message: str) -> None:
    networks, _, _ = run_of(hidden=2, checkpoints=3, after=0)
    with pytest.raises(error, match=message):
        fit("pdiff", Material(Target.of_networks(networks), networks), **{**SETTINGS, **settings})


@pytest.mark.slow
def test_parity_with_the_published_claim_and_what_embarrasses_it() -> None:
    """200 checkpoints of one run: what is made is as good as the zoo's mean accuracy, and so is the plain mean of the weights."""
    networks, inputs, classes = run_of(hidden=16, checkpoints=200, after=600)
    zoo = accuracy(dict(networks.tensors), inputs, classes)
    drawn = accuracy(
        sample(fit("pdiff", Material(Target.of_networks(networks), networks), autoencoder_steps=800, steps=2000), 100), inputs, classes
    )
    mean = accuracy(mean_of(networks), inputs, classes)
    assert drawn.mean() >= zoo.mean()
    assert mean >= zoo.mean()
