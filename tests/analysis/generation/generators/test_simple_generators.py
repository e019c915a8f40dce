"""The baselines that generators are judged beside, and what standardises weights: against definitions computed by hand."""

import pytest
import torch
from torch import Tensor

from weightspace.analysis.generation import Material, Target, fit, sample
from weightspace.analysis.generation.latent.principal import Principal
from weightspace.analysis.generation.latent.standardising import Standard
from weightspace.errors import GenerationError
from weightspace.metanets import WeightBatch
from weightspace.spec import SymmetrySpec

SPEC = SymmetrySpec.parse({"weight": "h 3", "bias": "h"}, sizes={"h": 2})


def material(rows: Tensor) -> Material:
    """Networks of eight parameters."""
    networks = WeightBatch.stack([{"weight": row[:6].view(2, 3), "bias": row[6:]} for row in rows], SPEC)
    return Material(Target.of_networks(networks), networks)


def drawn(made: dict[str, Tensor]) -> Tensor:
    return torch.cat([made["weight"].flatten(1), made["bias"]], 1)


def rows(count: int = 5) -> Tensor:
    """Networks far from each other, of tensors of unlike scale."""
    scale = torch.tensor([10.0, 10, 10, 10, 10, 10, 1, 1])
    return scale * torch.randn(count, 8, generator=torch.Generator().manual_seed(1))


def test_noise_is_of_one_deviation_around_a_network() -> None:
    made = drawn(sample(fit("noise", material(rows()), sigma=0.1), 4000))
    apart = torch.cdist(made, rows())
    nearest = rows()[apart.argmin(1)]
    assert (made - nearest).std(0).sub(0.1).abs().max() < 0.005
    assert apart.argmin(1).bincount(minlength=5).min() > 600  # all are drawn from alike


def test_relative_noise_counts_in_deviations_of_its_tensor() -> None:
    one = rows(1)
    noise = drawn(sample(fit("noise", material(one), sigma=0.1, relative=True), 4000)) - one
    expected = 0.1 * torch.cat([one[0, :6].std(correction=0).expand(6), one[0, 6:].std(correction=0).expand(2)])
    torch.testing.assert_close(noise.std(0), expected, rtol=0.05, atol=0)


def test_no_noise_is_a_network() -> None:
    made = drawn(sample(fit("noise", material(rows()), sigma=0.0), 6))
    assert torch.cdist(made, rows()).amin(1).max() == 0


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.0])
def test_a_gaussian_has_the_moments_of_the_zoo(spread: float) -> None:
    zoo = rows(40)
    made = drawn(sample(fit("gaussian", material(zoo), spread=spread), 4000))
    torch.testing.assert_close(made.mean(0), zoo.mean(0), rtol=0, atol=0.6)
    torch.testing.assert_close(made.std(0, correction=0), spread * zoo.std(0, correction=0), rtol=0.05, atol=1e-6)
    assert spread == 0 or torch.corrcoef(made.T).fill_diagonal_(0).abs().max() < 0.1


def test_what_is_constant_in_a_zoo_stays_constant() -> None:
    zoo = rows()
    zoo[:, 3], zoo[:, 7] = 1e6 / 3, 0.0
    made = drawn(sample(fit("gaussian", material(zoo)), 9))
    assert torch.equal(made[:, [3, 7]], zoo[:1, [3, 7]].expand(9, 2))
    assert drawn(sample(fit("gaussian", material(zoo[:1])), 2)).equal(zoo[:1].expand(2, 8))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(GenerationError, match=r"setting 'sigma' of generator 'noise' is -1\.0; expected a number from 0 on"):
        fit("noise", material(rows()), sigma=-1.0)
    with pytest.raises(GenerationError, match=r"'spread' of generator 'gaussian' is -0\.5; expected a number from 0 on"):
        fit("gaussian", material(rows()), spread=-0.5)


def test_standardising_gives_mean_0_and_deviation_1() -> None:
    zoo = rows(40).double()
    zoo[:, 2] = 7
    standard = Standard.of(zoo)
    small = standard.shrink(zoo)
    expected = (zoo - zoo.mean(0)) / zoo.std(0, correction=0)
    expected[:, 2] = 0
    torch.testing.assert_close(small, expected)
    torch.testing.assert_close(standard.grow(small), zoo)


def test_principal_components_are_those_of_the_covariance() -> None:
    zoo = rows(40) - rows(40).mean(0)
    principal = Principal.of(zoo, 3)
    values, vectors = torch.linalg.eigh(zoo.T @ zoo)
    best = vectors[:, -3:]
    torch.testing.assert_close(principal.grow(principal.shrink(zoo)), zoo @ best @ best.T, rtol=1e-4, atol=1e-3)
    small = principal.shrink(zoo)
    assert float(small.square().mean()) == pytest.approx(1, rel=1e-4)
    torch.testing.assert_close(small.square().sum(0) / small.square().sum(), values[-3:].flip(0) / values[-3:].sum(), rtol=1e-3, atol=0)


def test_there_are_no_more_components_than_networks() -> None:
    assert Principal.of(rows(2) - rows(2).mean(0), 7).basis.shape == (2, 8)
    alike = torch.zeros(3, 8)
    assert torch.equal(Principal.of(alike, 2).grow(Principal.of(alike, 2).shrink(alike)), alike)
