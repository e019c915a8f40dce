"""Diffusion against definitions computed another way, and on vectors of which the answer is known."""

import math
from typing import Any

import pytest
import torch

from weightspace.analysis.generation.latent.diffusion import SCHEDULES, Denoiser, Diffusion, kept_shares
from weightspace.analysis.generation.latent.minimising import drawn, minimise
from weightspace.errors import GenerationError, UnknownNameError

SEEDED = 0


def seeded(seed: int = SEEDED) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def untrained(size: int = 3, **settings: Any) -> Diffusion:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEEDED)
        return Diffusion(size, width=16, blocks=1, **settings)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_is_kept_falls_from_nearly_all_to_nearly_nothing(schedule: str) -> None:
    kept = kept_shares(schedule, 1000, 1e-4, 2e-2)
    assert list(kept) == sorted(kept, reverse=True)
    assert kept[0] > 0.999
    assert 0 < kept[-1] < 2e-3


def test_linear_schedule_is_the_product_of_what_each_step_keeps() -> None:
    kept, betas = 1.0, [0.1, 0.2, 0.3]
    for beta, told in zip(betas, kept_shares("linear", 3, 0.1, 0.3), strict=True):
        kept *= 1 - beta
        assert told == pytest.approx(kept)


def test_scaled_linear_schedule_is_linear_in_the_roots() -> None:
    kept = kept_shares("scaled_linear", 3, 0.01, 0.09)
    assert 1 - kept[1] / kept[0] == pytest.approx(0.04)


def test_cosine_schedule_keeps_the_squared_cosine() -> None:
    expected = math.cos((0.5 + 0.008) / 1.008 * math.pi / 2) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert kept_shares("cosine", 100, 0.1, 0.2)[49] == pytest.approx(expected)


def test_ancestral_sampling_is_the_published_posterior() -> None:
    """Ho et al.'s algorithm 2 with the posterior variance, written out step by step."""
    diffusion = untrained(steps=20)
    generator = seeded()
    betas = torch.linspace(1e-4, 5e-2, 20, dtype=torch.float64)
    bars = (1 - betas).cumprod(0)
    x = torch.randn(4, 3, generator=generator)
    with torch.no_grad():
        for t in reversed(range(20)):
            noise = diffusion.denoiser(x, torch.full((4,), t))
            x = (x - betas[t] / (1 - bars[t]).sqrt() * noise) / (1 - betas[t]).sqrt()
            if t:
                variance = (1 - bars[t - 1]) / (1 - bars[t]) * betas[t]
                x = (x + variance.sqrt() * torch.randn(4, 3, generator=generator)).float()
    torch.testing.assert_close(diffusion.sample(4, generator=seeded()), x.float(), atol=1e-4, rtol=1e-4)


def test_ddim_without_noise_follows_the_start_alone() -> None:
    diffusion = untrained(steps=20)
    start, generator = torch.randn(4, 3, generator=seeded()), seeded()
    made = diffusion.sample(4, steps=5, eta=0.0, generator=generator)
    told = seeded()
    torch.testing.assert_close(torch.randn(4, 3, generator=told), start)
    assert torch.equal(generator.get_state(), told.get_state())  # nothing was drawn after the start
    assert made.isfinite().all()


def test_a_perfect_denoiser_brings_back_the_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    diffusion = untrained(steps=50)
    clean = torch.tensor([1.0, -2.0, 0.5])

    def perfect(noisy: torch.Tensor, times: torch.Tensor, *rest: object) -> torch.Tensor:
        kept = torch.tensor(diffusion.kept)[times][:, None]
        return (noisy - kept.sqrt() * clean) / (1 - kept).sqrt()

    monkeypatch.setattr(diffusion.denoiser, "forward", perfect)
    for steps, eta in [(None, 1.0), (7, 0.0), (1, 0.0), (500, 0.5)]:
        made = diffusion.sample(2, steps=steps, eta=eta, generator=seeded())
        torch.testing.assert_close(made, clean.expand(2, -1), atol=1e-3, rtol=1e-3)


def test_loss_of_a_denoiser_that_tells_nothing_is_the_variance_of_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    diffusion = untrained(steps=50)
    monkeypatch.setattr(diffusion.denoiser, "forward", lambda noisy, *rest: torch.zeros_like(noisy))
    assert float(diffusion.loss(torch.randn(5000, 3, generator=seeded()), generator=seeded())) == pytest.approx(1, abs=0.03)


@pytest.fixture(scope="module")
def rings() -> tuple[torch.Tensor, Diffusion]:
    """Two clusters far from 0 and of another scale than 1, and what was learned of them."""
    generator = seeded()
    signs = torch.randint(2, (400, 1), generator=generator) * 2.0 - 1
    clean = 10 + 6 * signs * torch.tensor([1.0, 1.0]) + 0.5 * torch.randn(400, 2, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEEDED)
        diffusion = Diffusion(2, steps=50, last=0.2, width=32, blocks=1)
    diffusion.learn(clean, steps=400, learning_rate=3e-3, generator=generator)
    return clean, diffusion


@pytest.mark.parametrize(("steps", "eta"), [(None, 1.0), (15, 0.0)])
def test_learned_vectors_come_from_both_clusters(rings: tuple[torch.Tensor, Diffusion], steps: int | None, eta: float) -> None:
    _, diffusion = rings
    made = diffusion.sample(400, steps=steps, eta=eta, generator=seeded(1))
    high = made.mean(1) > 10
    assert 0.35 < high.float().mean() < 0.65
    centres = torch.where(high[:, None], 16.0, 4.0)
    assert (made - centres).abs().median() < 1.0  # between the clusters it would be 6
    assert ((made - centres).norm(dim=1) < 3).float().mean() > 0.8


def test_learning_lowers_the_loss(rings: tuple[torch.Tensor, Diffusion]) -> None:
    clean, diffusion = rings
    fresh = untrained(2, steps=50)
    fresh.measure(clean)
    assert diffusion.loss(clean, generator=seeded()) < 0.7 * fresh.loss(clean, generator=seeded())


def test_conditions_are_followed_and_guidance_follows_them_further() -> None:
    generator = seeded()
    conditions = torch.randint(2, (400, 1), generator=generator).float()
    clean = 4 * conditions + torch.randn(400, 1, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEEDED)
        diffusion = Diffusion(1, steps=30, last=0.3, width=32, blocks=1, condition=1)
    diffusion.measure(clean)
    minimise(
        lambda: diffusion.loss(clean, conditions, leave_out=0.2, generator=generator), diffusion.parameters(), steps=400, learning_rate=5e-3
    )
    asked = torch.tensor([[0.0], [1.0]]).repeat_interleave(100, 0)
    made = diffusion.sample(200, asked, generator=seeded())
    further = diffusion.sample(200, asked, guidance=2.0, generator=seeded())
    without = diffusion.sample(200, generator=seeded())
    assert made[:100].mean() == pytest.approx(0, abs=0.6)
    assert made[100:].mean() == pytest.approx(4, abs=0.6)
    assert further[100:].mean() - further[:100].mean() > made[100:].mean() - made[:100].mean()
    assert without[:100].mean() == pytest.approx(2, abs=0.7)
    assert without.std() > 1.5 * made[:100].std()


def test_a_condition_left_out_makes_no_difference() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEEDED)
        denoiser = Denoiser(3, width=8, blocks=1, condition=2)
    noisy, times = torch.ones(2, 3), torch.tensor([1, 4])
    shown = denoiser(noisy, times, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([False, True]))
    nothing = denoiser(noisy, times)
    torch.testing.assert_close(shown[1], nothing[1])
    assert not torch.allclose(shown[0], nothing[0])


def test_vectors_that_are_all_the_same_have_no_spread() -> None:
    diffusion = untrained(2)
    diffusion.measure(torch.full((4, 2), 3.0))
    assert float(diffusion.spread) == 1.0
    assert diffusion.centre.tolist() == [3.0, 3.0]


def test_batches_have_no_repeats_unless_they_must() -> None:
    assert sorted(drawn(8, 8, seeded()).tolist()) == list(range(8))
    assert len(drawn(3, 8, seeded())) == 8


def test_unknown_schedule_is_named() -> None:
    with pytest.raises(UnknownNameError, match="no noise schedule named 'liner'; did you mean 'linear'"):
        kept_shares("liner", 10, 0.1, 0.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((0, 0.1, 0.2), "0 steps of noise; give at least one"),
        ((5, 0.2, 0.1), "noise from 0.2 to 0.1 a step; give rising shares between 0 and 1"),
        ((5, 0.0, 0.1), "noise from 0 to 0.1 a step"),
        ((5, 0.1, 1.0), "noise from 0.1 to 1 a step"),
    ],
)
def test_impossible_noise_is_refused(settings: tuple[int, float, float], message: str) -> None:
    with pytest.raises(GenerationError, match=message):
        kept_shares("linear", *settings)


def test_sampling_takes_a_step() -> None:
    with pytest.raises(GenerationError, match="0 steps of sampling; give at least one"):
        untrained().sample(1, steps=0, generator=seeded())


def test_a_loss_that_is_no_number_ends_learning() -> None:
    weight = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(GenerationError, match="the loss became nan at step 1; lower the learning rate"):
        minimise(lambda: weight * torch.nan, [weight], steps=3, learning_rate=1e-3)


def test_minimising_tells_of_every_step_and_comes_to_the_minimum() -> None:
    weight, told = torch.nn.Parameter(torch.tensor(1.0)), []
    lost = minimise(
        lambda: (weight - 2).square(), [weight], steps=200, learning_rate=0.05, progress=lambda done, total: told.append((done, total))
    )
    assert told == [(step, 200) for step in range(1, 201)]
    assert lost[0] == pytest.approx(1)
    assert float(weight.detach()) == pytest.approx(2, abs=0.05)
