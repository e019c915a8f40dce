"""Hyper-representations: the autoencoder against the mean it departs from, kernels against latents known, and whom they stand on."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.analysis.generation.materials import module, networks, task
from weightspace.analysis.generation import Material, Target, Wish, fit, sample
from weightspace.analysis.generation.generators.hyperrep import HyperRepresentation
from weightspace.errors import GenerationError
from weightspace.metanets import WeightBatch

SMALL: dict[str, Any] = {"latent": 4, "hidden": 16, "layers": 1, "heads": 2, "batch_size": 16, "learning_rate": 1e-2}


def rank_one(count: int = 24) -> Material:
    """Networks on a line through weight space, of layers of unlike scale."""
    two = networks(2)
    steps = torch.linspace(-1, 1, count)
    tensors = {}
    for name, tensor in two.tensors.items():
        scale = 100.0 if name.startswith("fc2") else 1.0
        tensors[name] = scale * (tensor[0] + steps.view(-1, *[1] * (tensor.ndim - 1)) * tensor[1])
    batch = WeightBatch(two.layout, tensors)
    return Material(Target.of_networks(batch), batch)


def fitted(material: Material, **settings: Any) -> HyperRepresentation:
    made = fit("hyperrep", material, **{"steps": 3, **SMALL, **settings})
    assert isinstance(made, HyperRepresentation)
    return made


@pytest.fixture(scope="module")
def learned() -> tuple[HyperRepresentation, Material]:
    material = rank_one()
    return fitted(material, steps=200, noise=0.02), material


@torch.no_grad()
def test_all_layers_are_restored_whatever_their_scale(learned: tuple[HyperRepresentation, Material]) -> None:
    made, material = learned
    assert material.networks is not None
    restored = made.restored(dict(material.networks.tensors))
    for name, tensor in material.networks.tensors.items():
        error, spread = (restored[name] - tensor).square().mean(), (tensor - tensor.mean(0)).square().mean()
        assert error < 0.15 * spread, name  # the mean of all networks would have an error of 1


def test_what_is_drawn_lies_nearer_than_independent_parameters_would(learned: tuple[HyperRepresentation, Material]) -> None:
    made, material = learned
    made.centre, made.bandwidth = "network", 0.1

    assert material.networks is not None
    spreads = {name: tensor.std(0, correction=0).square().mean().sqrt() for name, tensor in material.networks.tensors.items()}
    scale = torch.cat([spread.expand(size) for spread, size in zip(spreads.values(), material.target.sizes, strict=True)])

    def apart(tensors: dict[str, torch.Tensor]) -> float:
        """Mean squared distance to the nearest network, each tensor in its own scale."""
        return float((torch.cdist(material.target.flat(tensors) / scale, material.flat() / scale) ** 2).amin(1).mean())

    assert apart(sample(made, 40)) < 0.1 * apart(sample(fit("gaussian", material), 40))


@torch.no_grad()
def test_kernels_without_width_draw_latents_that_were_seen(learned: tuple[HyperRepresentation, Material]) -> None:
    made, material = learned
    assert material.networks is not None
    made.centre, made.bandwidth = "network", 0.0
    drawn = material.target.flat(sample(made, 12))
    restored = material.target.flat(made.restored(dict(material.networks.tensors)))
    assert torch.cdist(drawn, restored, compute_mode="donot_use_mm_for_euclid_dist").amin(1).max() < 1e-3
    made.centre = "token"
    mixed = material.target.flat(sample(made, 12))
    assert torch.cdist(mixed, restored).amin(1).max() > 1


def test_kernels_have_the_width_of_scotts_rule() -> None:
    made = fitted(rank_one(), centre="network", bandwidth=2.0)
    seen: list[torch.Tensor] = []
    made._decoded = lambda latents: seen.append(latents) or {}  # type: ignore[method-assign, func-returns-value]
    made.latents = torch.nn.Buffer(torch.cat([made.latents[:1] - 1, made.latents[:1] + 1]))
    made.sample(4000, Wish(), generator=torch.Generator().manual_seed(0))
    centre = made.latents.mean(0)
    width = 2.0 * 1.0 * 2**-0.2
    torch.testing.assert_close((seen[0] - centre).var(0), torch.full_like(centre, 1 + width**2), rtol=0.15, atol=0)


def test_kernels_stand_on_the_best_networks() -> None:
    stacked = networks(10)
    judged = task()
    plain = module()
    losses = []
    for at in range(10):
        plain.load_state_dict({name: tensor[at] for name, tensor in stacked.tensors.items()})
        with torch.no_grad():
            losses.append(sum(float(torch.nn.functional.cross_entropy(plain(x), y)) for x, y in judged.batches))
    target = Target.of_networks(stacked)
    some, everyone = (fitted(Material(target, stacked, tasks), best=0.25) for tasks in ([judged], []))
    assert len(everyone.latents) == 10 and len(some.latents) == 3  # a share of 2.5 is rounded up
    best = torch.tensor(losses).argsort()[:3]
    torch.testing.assert_close(some.latents, everyone.latents[best])


def test_settings_that_cannot_be_used_are_told() -> None:
    material = rank_one()
    with pytest.raises(GenerationError, match=r"centre='layer'; expected one of"):
        fitted(material, centre="layer")
    with pytest.raises(GenerationError, match=r"setting 'best' of generator 'hyperrep' is 0\.0; expected a number above 0 and up to 1"):
        fitted(material, best=0.0)
    with pytest.raises(GenerationError, match="symmetry, which is not known; give checkpoints with a spec"):
        fitted(replace(material, target=replace(material.target, spec=None)))


def test_rounds_keep_the_best_of_what_was_drawn() -> None:
    stacked, judged = networks(12), task()
    material = Material(Target.of_networks(stacked), stacked, [judged])
    settings: dict[str, Any] = {"centre": "network", "best": 0.5, "candidates": 40, "steps": 30}

    def loss(rounds: int) -> float:
        made = fitted(material, rounds=rounds, **settings)
        assert len(made.latents) == 6
        return sum(one["loss"] for one in judged.evaluate_many(sample(made, 20))) / 20

    losses = [loss(rounds) for rounds in (0, 1, 4)]
    assert losses[0] > losses[1] > losses[2]


def test_rounds_need_a_task() -> None:
    with pytest.raises(GenerationError) as raised:
        fitted(rank_one(), rounds=1)
    assert str(raised.value) == "rounds keep the networks that are best at a task, and none was given; give one, or set rounds=0"
