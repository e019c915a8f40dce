import math

import numpy as np
import pytest
import torch
from torch import Tensor

from weightspace.analysis.layers import Layer
from weightspace.analysis.measure import Values, measures
from weightspace.analysis.spectra import Spectrum
from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError

NUMBERS = (
    "stable_rank effective_rank spectral_entropy spectral_norm frobenius_norm nuclear_norm matrix_nuclear_norm log_norm log_spectral_norm "
    "log_alpha_norm alpha alpha_hat alpha_interval marchenko_pastur mp_softrank traps rand_distance rank_loss hyperspherical_energy "
    "condition_number operator_norm"
).split()


def take(name: str, tensor: Tensor, **settings: object) -> Values:
    """A measure of one matrix or kernel."""
    one = measures[name]
    chance = {"generator": torch.Generator().manual_seed(0)} if one.is_random else {}
    kind = "kernel" if tensor.ndim > 2 else "dense"
    return one(Spectrum.of(Layer("w", kind, tuple(tensor.shape)), tensor), **settings, **chance)  # type: ignore[arg-type]


def one(name: str, tensor: Tensor, **settings: object) -> float:
    return take(name, tensor, **settings)[""]  # type: ignore[return-value]


def gaussian(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


DEGENERATE = {
    "zero": torch.zeros(9, 12),
    "one row": gaussian(1, 12),
    "one column": gaussian(12, 1),
    "one number": torch.ones(1, 1),
    "rank one": gaussian(12, 1) @ gaussian(1, 10, 1),
    "constant": torch.full((12, 10), 0.3),
    "identity": torch.eye(10),
    "tiny": 1e-30 * gaussian(12, 10),
    "huge": 1e30 * gaussian(12, 10),
    "kernel of zeros": torch.zeros(4, 3, 3, 3),
    "kernel of one cell": gaussian(12, 10).reshape(12, 10, 1, 1),
}


@pytest.mark.parametrize("what", DEGENERATE)
@pytest.mark.parametrize("name", NUMBERS)
def test_degenerate_matrices_have_defined_values(name: str, what: str) -> None:
    found = take(name, DEGENERATE[what])
    assert found and all(isinstance(value, int | float) for value in found.values())
    again = take(name, DEGENERATE[what])
    assert [*map(str, found.values())] == [*map(str, again.values())]


@pytest.mark.parametrize(
    ("name", "zero", "rank_one", "identity"),
    [
        ("stable_rank", 0, 1, 10),
        ("effective_rank", 0, 1, 10),
        ("spectral_entropy", 0, 0, 1),
        ("log_norm", -math.inf, None, 1),
        ("log_spectral_norm", -math.inf, None, 0),
        ("alpha", math.nan, math.nan, math.nan),
        ("alpha_hat", math.nan, math.nan, math.nan),
        ("log_alpha_norm", math.nan, math.nan, math.nan),
        ("mp_softrank", math.nan, None, None),
        ("traps", 0, None, None),
        ("rank_loss", 9, 9, 0),
        ("condition_number", math.nan, math.inf, 1),
        ("nuclear_norm", 0, None, 10),
        ("matrix_nuclear_norm", 0, None, 10),
        ("hyperspherical_energy", math.nan, math.inf, 2**-0.5),
        ("operator_norm", 0, None, 1),
    ],
)
def test_what_they_say_of_simple_matrices(name: str, zero: float, rank_one: float | None, identity: float | None) -> None:
    for tensor, value in ((torch.zeros(9, 12), zero), (torch.full((12, 10), 0.5), rank_one), (torch.eye(10), identity)):
        if value is not None:
            assert one(name, tensor) == pytest.approx(value, abs=1e-6, nan_ok=True)


def test_norms_agree_with_torch() -> None:
    matrix = gaussian(30, 20)
    for name, kind in (("spectral_norm", 2), ("nuclear_norm", "nuc"), ("frobenius_norm", "fro")):
        assert one(name, matrix) == pytest.approx(float(torch.linalg.matrix_norm(matrix, kind)), rel=1e-5)
    assert one("log_norm", matrix) == pytest.approx(2 * math.log10(one("frobenius_norm", matrix)))
    assert one("log_spectral_norm", matrix) == pytest.approx(2 * math.log10(one("spectral_norm", matrix)))
    assert one("condition_number", matrix) == pytest.approx(float(torch.linalg.cond(matrix)), rel=1e-4)
    assert take("condition_number", torch.diag(torch.tensor([4.0, 2.0, 0.0])))["nonzero"] == 2


def test_effective_rank_is_of_singular_values_and_entropy_of_their_squares() -> None:
    matrix = torch.diag(torch.tensor([2.0, 1.0]))
    p, q = np.array([2, 1]) / 3, np.array([4, 1]) / 5
    assert one("effective_rank", matrix) == pytest.approx(math.exp(-(p * np.log(p)).sum()))
    assert one("spectral_entropy", matrix) == pytest.approx(-(q * np.log(q)).sum() / math.log(2))


def test_alpha_hat_and_alpha_norm_follow_from_alpha() -> None:
    matrix = gaussian(40, 30)
    alpha, top = one("alpha", matrix), one("log_spectral_norm", matrix)
    assert one("alpha_hat", matrix) == pytest.approx(alpha * top)
    eigenvalues = torch.linalg.svdvals(matrix.double()) ** 2
    assert one("log_alpha_norm", matrix) == pytest.approx(math.log10(float((eigenvalues**alpha).sum())), rel=1e-5)


def heavy(exponent: float, size: int = 400) -> Tensor:
    """A matrix whose eigenvalues are quantiles of a power law."""
    eigenvalues = (1 - (torch.arange(size, dtype=torch.float64) + 0.5) / size) ** (-1 / (exponent - 1))
    left, right = (torch.linalg.qr(gaussian(size, size, seed).double())[0] for seed in (1, 2))
    made: Tensor = (left * eigenvalues.sqrt()) @ right
    return made


def test_alpha_recovers_a_planted_exponent_and_its_interval_holds_it() -> None:
    matrix = heavy(2.5)
    found, interval = take("alpha", matrix), take("alpha_interval", matrix, bootstrap=60)
    assert found[""] == pytest.approx(2.5, abs=0.05)
    assert interval["low"] < 2.5 < interval["high"]  # type: ignore[operator]
    assert interval["hat_low"] < one("alpha_hat", matrix) < interval["hat_high"]  # type: ignore[operator]
    narrower = take("alpha_interval", matrix, bootstrap=60, level=0.5)
    assert narrower["high"] - narrower["low"] < interval["high"] - interval["low"]  # type: ignore[operator]


def test_noise_has_no_spikes_and_a_planted_direction_is_one() -> None:
    matrix = gaussian(300, 100)
    assert take("marchenko_pastur", matrix)["spikes"] == 0
    assert one("mp_softrank", matrix) == pytest.approx(1, abs=0.1)
    planted = matrix + torch.outer(gaussian(300, 1, 1)[:, 0], gaussian(100, 1, 2)[:, 0])
    assert take("marchenko_pastur", planted)["spikes"] == 1
    assert one("mp_softrank", planted) < 0.1
    assert one("rand_distance", planted) > 3 * one("rand_distance", matrix)


def test_a_planted_large_entry_is_a_trap_and_a_planted_direction_is_none() -> None:
    matrix = gaussian(300, 100)
    assert one("traps", matrix) == 0
    spiky = matrix.clone()
    spiky[7, 3] = 40
    found = take("traps", spiky)
    assert found[""] == 1
    assert found["largest"] > found["edge"]  # type: ignore[operator]
    planted = matrix + torch.outer(torch.ones(300), gaussian(100, 1, 2)[:, 0])
    assert take("marchenko_pastur", planted)["spikes"] == 1
    assert one("traps", planted) == 0


def test_rank_loss_counts_zeros_and_weak_ones() -> None:
    low = gaussian(30, 4) @ gaussian(4, 20, 1)
    assert take("rank_loss", low) == {"": 16, "rank": 4, "weak": 16}
    assert take("rank_loss", torch.diag(torch.tensor([1.0, 1e-2, 1e-4])), tolerance=1e-3, weak=1e-3) == {"": 1, "rank": 2, "weak": 2}


def test_matrix_nuclear_norm_stands_for_the_nuclear_norm() -> None:
    matrix = gaussian(60, 20)
    columns = torch.linalg.vector_norm(matrix, dim=0)
    assert one("matrix_nuclear_norm", matrix) == pytest.approx(float(columns.sum()), rel=1e-5)
    assert one("matrix_nuclear_norm", matrix.T) == pytest.approx(
        float(torch.linalg.vector_norm(matrix, dim=1).topk(20).values.sum()), rel=1e-5
    )
    assert one("matrix_nuclear_norm", torch.eye(8)) == one("nuclear_norm", torch.eye(8))
    tokens = matrix.double() - matrix.double().mean(0)
    tokens /= tokens.norm(dim=1, keepdim=True)
    assert one("matrix_nuclear_norm", matrix, normalize=True) == pytest.approx(float(tokens.norm(dim=0).sum()) / 60, rel=1e-5)


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_hyperspherical_energy_is_the_mean_over_pairs(power: float) -> None:
    rows = gaussian(7, 4)
    unit = rows / rows.norm(dim=1, keepdim=True)
    distances = [float((unit[i] - unit[j]).norm()) for i in range(7) for j in range(i)]
    expected = np.mean([-math.log(d) if power == 0 else d**-power for d in distances])
    with_zeros = torch.cat([3 * rows, torch.zeros(2, 4)])
    assert one("hyperspherical_energy", rows, power=power) == pytest.approx(expected, rel=1e-5)
    assert one("hyperspherical_energy", with_zeros, power=power) == pytest.approx(expected, rel=1e-5)


def test_hyperspherical_energy_of_many_rows_and_near_copies() -> None:
    many = gaussian(1100, 3)
    unit = (many / many.norm(dim=1, keepdim=True)).double()
    assert one("hyperspherical_energy", many) == pytest.approx(float((1 / torch.pdist(unit)).mean()), rel=1e-5)
    near = torch.tensor([[1.0, 0.0], [1.0, 1e-6]])
    assert one("hyperspherical_energy", near) == pytest.approx(1e6, rel=1e-3)
    assert one("hyperspherical_energy", torch.tensor([[1.0, 2.0], [3.0, 6.0]])) > 1e6
    assert math.isnan(one("hyperspherical_energy", torch.tensor([[1.0, 2.0], [0.0, 0.0]])))


def test_operator_norm_of_a_kernel_is_not_that_of_its_matrix() -> None:
    kernel = gaussian(6, 45).reshape(6, 5, 3, 3)
    assert one("operator_norm", kernel, image=(8, 8)) == one("operator_norm", kernel, image=(8,))
    assert one("operator_norm", kernel) > 1.3 * one("spectral_norm", kernel)
    assert one("operator_norm", kernel[:, :, 0, 0]) == one("spectral_norm", kernel[:, :, 0, 0])
    assert one("operator_norm", kernel[:, :, :1, :1]) == pytest.approx(one("spectral_norm", kernel[:, :, 0, 0]))


def test_means_over_the_layers_leave_out_those_with_nan() -> None:
    state = {"a.weight": gaussian(20, 10), "b.weight": gaussian(30, 10, 1)}
    found = measures["spectral_means"](Checkpoint.of(state | {"c.weight": torch.full((9, 9), math.nan)}))
    assert found["layers"] == 2
    assert found["stable_rank"] == pytest.approx((one("stable_rank", state["a.weight"]) + one("stable_rank", state["b.weight"])) / 2)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("alpha_interval", {"bootstrap": 0}, "expected one or more resamples and a level between 0 and 1, found 0 and 0.95"),
        ("alpha_interval", {"level": 95.0}, "found 200 and 95.0; set bootstrap and level"),
        ("hyperspherical_energy", {"power": -1.0}, "expected a power of 0 or more, found -1.0; set power"),
    ],
)
def test_settings_without_sense_are_refused(name: str, settings: dict[str, object], words: str) -> None:
    with pytest.raises(AnalysisError, match=words):
        take(name, gaussian(12, 10), **settings)
