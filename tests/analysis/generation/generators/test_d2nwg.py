"""D2NWG on data sets whose right weights are known, and its set encoder by what it must not tell apart."""

from typing import Any

import pytest
import torch
from torch import Tensor

from weightspace.analysis.generation import Material, Target, WeightGenerator, Wish, fit, sample
from weightspace.analysis.generation.generators.d2nwg import D2NWG
from weightspace.analysis.generation.latent.set_encoder import AttentionBlock, SetEncoder, alignment_loss, few_shots
from weightspace.errors import GenerationError, UnknownNameError
from weightspace.metanets import WeightBatch
from weightspace.spec import SymmetrySpec

CLASSES, SHOTS, FEATURES = 2, 6, 3
SETTINGS: dict[str, Any] = {
    "latent": 6,
    "hidden": 48,
    "dim": 16,
    "batch_size": 32,
    "timesteps": 30,
    "last_noise": 0.3,
    "blocks": 1,
    "learning_rate": 3e-3,
}
STEPS: dict[str, Any] = {"autoencoder_steps": 120, "encoder_steps": 120, "steps": 250}
ONE: dict[str, Any] = {"autoencoder_steps": 1, "encoder_steps": 1, "steps": 1}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tasks(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Shots around a mean for each class, and the right weights: a row for each class, its mean."""
    generator = seeded(seed)
    means = torch.randn(count, CLASSES, 1, FEATURES, generator=generator)
    return 5 + means + 0.3 * torch.randn(count, CLASSES, SHOTS, FEATURES, generator=generator), means[:, :, 0]


def material(count: int = 120, conditional: bool = True) -> Material:
    shots, weights = tasks(count, 0)
    spec = SymmetrySpec.parse({"weight": "classes features"}, sizes={"classes": CLASSES, "features": FEATURES})
    networks = WeightBatch.stack([{"weight": one} for one in weights], spec)
    return Material(Target.of_networks(networks), networks, conditions=shots if conditional else None)


def far(made: WeightGenerator, seed: int = 1) -> float:
    """Mean squared error of what is drawn for new tasks, whose weights vary by 1."""
    shots, weights = tasks(60, seed)
    wish = Wish(shots) if made.condition_shape is not None else None
    return float((sample(made, 60, wish)["weight"] - weights).square().mean())


@pytest.fixture(scope="module", params=["joint", "clip"])
def fitted(request: pytest.FixtureRequest) -> WeightGenerator:
    more = {"steps": 600} if request.param == "joint" else {}  # it learns two things at once
    return fit("d2nwg", material(), encoder=request.param, **{**SETTINGS, **STEPS, **more})


@pytest.fixture(scope="module")
def unconditional() -> WeightGenerator:
    return fit("d2nwg", material(conditional=False), **SETTINGS, **STEPS)


def test_weights_of_new_tasks_are_nearer_than_those_drawn_without_conditions(
    fitted: WeightGenerator, unconditional: WeightGenerator
) -> None:
    assert far(unconditional) > 1.5  # twice the variance, if the spread is right
    assert far(fitted) < 0.75 * far(unconditional)


def test_the_order_of_the_classes_is_that_of_the_outputs(fitted: WeightGenerator) -> None:
    shots, weights = tasks(60, 2)
    swapped = sample(fitted, 60, Wish(shots.flip(1)))["weight"]
    assert (swapped - weights.flip(1)).square().mean() < (swapped - weights).square().mean()


def test_the_order_of_the_shots_makes_no_difference(fitted: WeightGenerator) -> None:
    shots, _ = tasks(4, 3)
    one, two = (sample(fitted, 4, Wish(each))["weight"] for each in (shots, shots.flip(2)))
    torch.testing.assert_close(one, two, atol=1e-3, rtol=1e-3)


def test_guidance_goes_further_from_what_is_drawn_without_a_condition(fitted: WeightGenerator) -> None:
    assert isinstance(fitted, D2NWG)
    shots, _ = tasks(30, 4)
    plain = sample(fitted, 30, Wish(shots))["weight"]
    fitted.guidance = 2.0
    guided = sample(fitted, 30, Wish(shots))["weight"]
    fitted.guidance = 0.0
    assert guided.square().mean() > plain.square().mean()


def test_without_conditions_it_draws_as_the_networks_are_spread(unconditional: WeightGenerator) -> None:
    drawn = sample(unconditional, 300)["weight"]
    assert drawn.mean(0).abs().max() < 0.5
    assert 0.6 < drawn.std(0).mean() < 1.3


@pytest.mark.parametrize(("encoder", "total"), [("joint", 5), ("clip", 9)])
def test_progress_goes_through_all_parts(encoder: str, total: int) -> None:
    told: list[tuple[int, int]] = []
    steps: dict[str, Any] = {"autoencoder_steps": 2, "encoder_steps": 4, "steps": 3, "encoder": encoder}
    fit("d2nwg", material(5), progress=lambda done, of: told.append((done, of)), **SETTINGS, **steps)
    assert told == [(done, total) for done in range(1, total + 1)]


def test_an_encoder_that_learned_before_is_left_as_it_was() -> None:
    steps: dict[str, Any] = {"autoencoder_steps": 2, "encoder_steps": 2, "encoder": "clip"}
    short, long = (fit("d2nwg", material(5), steps=count, **SETTINGS, **steps) for count in (1, 6))
    assert isinstance(short, D2NWG) and isinstance(long, D2NWG)
    assert short.encoder is not None and long.encoder is not None
    for one, two in zip(short.encoder.parameters(), long.encoder.parameters(), strict=True):
        assert torch.equal(one, two)


def test_conditions_of_fewer_dimensions_are_of_one_class_or_one_shot() -> None:
    given = material(5)
    assert given.conditions is not None and given.networks is not None
    short = Material(given.target, given.networks, conditions=given.conditions[:, 0, 0])
    made = fit("d2nwg", short, **SETTINGS, **ONE)
    assert isinstance(made, D2NWG)
    assert made.data_shape == (1, 1, FEATURES)
    assert sample(made, 2, Wish(torch.zeros(FEATURES)))["weight"].shape == (2, CLASSES, FEATURES)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"encoder": "clp"}, GenerationError, "no way 'clp' for the data set encoder to learn; expected 'joint' or 'clip'"),
        (
            {"guidance": 2.0, "leave_out": 0.0},
            GenerationError,
            "guidance 2 needs to know networks without their conditions; set leave_out above 0",
        ),
        ({"heads": 3}, GenerationError, "3 heads of attention do not divide 16 dimensions; give a divisor"),
        ({"schedule": "linaer"}, UnknownNameError, "no noise schedule named 'linaer'; did you mean 'linear'"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit("d2nwg", material(4), **{**SETTINGS, **settings})


def test_conditions_that_cannot_be_are_refused() -> None:
    given = material(4)
    assert given.conditions is not None and given.networks is not None
    deep = Material(given.target, given.networks, conditions=given.conditions[..., None])
    with pytest.raises(GenerationError, match=r"conditions of shape \[2, 6, 3, 1\], expected \[classes, shots, features\]"):
        fit("d2nwg", deep, **SETTINGS)
    with pytest.raises(GenerationError, match="a condition holds values that are not finite; leave it out, or give numbers"):
        fit("d2nwg", Material(given.target, given.networks, conditions=given.conditions * torch.nan), **SETTINGS)
    made = fit("d2nwg", given, **SETTINGS, **ONE)
    with pytest.raises(GenerationError, match="a condition holds values that are not finite; leave it out, or give numbers"):
        sample(made, 1, Wish(torch.full((CLASSES, SHOTS, FEATURES), torch.inf)))


def test_few_shots_are_of_their_classes_in_order_and_without_repeats() -> None:
    inputs, targets = torch.arange(30.0)[:, None], torch.arange(30) % 3
    shots = few_shots(inputs, targets, [2, 0], 10, features=lambda each: each * 2, generator=seeded())
    assert shots.shape == (2, 10, 1)
    for at, one in enumerate([2, 0]):
        assert sorted(shots[at, :, 0].tolist()) == [2.0 * value for value in range(one, 30, 3)]


def test_without_chance_the_first_examples_are_taken() -> None:
    inputs, targets = torch.arange(30.0)[:, None], torch.arange(30) % 3
    assert few_shots(inputs, targets, [2, 0], 2, generator=None)[..., 0].tolist() == [[2.0, 5.0], [0.0, 3.0]]


def test_more_shots_than_examples_are_refused() -> None:
    with pytest.raises(GenerationError, match="1 examples of class 4, but 2 shots were asked for; ask for fewer"):
        few_shots(torch.zeros(1, 2), torch.tensor([4]), [4], 2, generator=seeded())


@torch.no_grad()
def test_attention_is_the_published_block() -> None:
    """Lee et al.'s equation 6 with one head, written out."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        block = AttentionBlock(4, 1)
    asking, asked = torch.randn(1, 3, 4, generator=seeded()), torch.randn(1, 5, 4, generator=seeded(1))
    weight = block.attention.in_proj_weight.chunk(3)
    bias = block.attention.in_proj_bias.chunk(3)
    query, key, value = (given[0] @ w.T + b for given, w, b in zip((asking, asked, asked), weight, bias, strict=True))
    looked = (query @ key.T / 4**0.5).softmax(-1) @ value @ block.attention.out_proj.weight.T + block.attention.out_proj.bias
    hidden = torch.nn.functional.layer_norm(asking[0] + looked, [4])
    linear = block.perceptron[0]
    assert isinstance(linear, torch.nn.Linear)
    expected = torch.nn.functional.layer_norm(hidden + (hidden @ linear.weight.T + linear.bias).relu(), [4])
    torch.testing.assert_close(block(asking, asked)[0], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_encoding_sees_examples_classes_and_places_but_no_order_of_examples() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        encoder = SetEncoder((3, 5, 2), dim=8, out=4)
    sets = torch.randn(2, 3, 5, 2, generator=seeded())
    encoded = encoder(sets)
    assert encoded.shape == (2, 4)
    torch.testing.assert_close(encoder(sets[:, :, torch.tensor([3, 1, 4, 0, 2])]), encoded, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(encoder(sets.flip(1)), encoded, atol=1e-3)
    assert not torch.allclose(encoder(sets + torch.tensor([1.0, 0, 0])[:, None, None]), encoded, atol=1e-3)
    assert encoder(sets[:, :, :2]).shape == (2, 4)  # fewer shots than it was made for


def test_alignment_is_a_symmetric_contrast_with_soft_answers() -> None:
    encoded, latents, temperature = torch.randn(3, 4, generator=seeded()), torch.randn(3, 4, generator=seeded(1)), 0.5
    lost = 0.0
    for i in range(3):
        alike = torch.tensor([float(encoded[i] @ encoded[j] + latents[i] @ latents[j]) / 2 * temperature for j in range(3)]).softmax(0)
        lost -= float((alike * (torch.stack([latents[i] @ encoded[j] for j in range(3)]) / temperature).log_softmax(0)).sum()) / 6
    for j in range(3):
        soft = torch.stack(
            [
                torch.stack([(encoded[i] @ encoded[k] + latents[i] @ latents[k]) / 2 * temperature for k in range(3)]).softmax(0)
                for i in range(3)
            ]
        )
        logits = (torch.stack([latents[i] @ encoded[j] for i in range(3)]) / temperature).log_softmax(0)
        lost -= float((soft[:, j] * logits).sum()) / 6
    assert float(alignment_loss(encoded, latents, temperature)) == pytest.approx(lost, rel=1e-4)


def test_alignment_is_best_where_data_sets_lie_at_their_networks() -> None:
    latents = 3 * torch.eye(4)
    assert alignment_loss(latents, latents) < alignment_loss(latents.roll(1, 0), latents)
