import numpy as np
import pytest

from weightspace.analysis.spectra.marchenko_pastur import MarchenkoPastur, fitted
from weightspace.errors import UnknownNameError


def noise(rows: int, columns: int, seed: int, sigma: float = 1.0) -> np.ndarray:
    """Eigenvalues of a matrix of normal entries, descending."""
    return np.asarray(np.linalg.svd(sigma * np.random.default_rng(seed).normal(size=(rows, columns)), compute_uv=False) ** 2)


@pytest.mark.parametrize(("rows", "columns"), [(300, 300), (600, 200), (2000, 100)])
@pytest.mark.parametrize("fit", ["median", "variance", "density"])
def test_every_fit_finds_the_scale_of_noise(rows: int, columns: int, fit: str) -> None:
    law = fitted(noise(rows, columns, 0, sigma=0.3), (rows, columns), fit)
    assert law.sigma == pytest.approx(0.3, rel=0.03)


@pytest.mark.parametrize("size", [(100, 100), (200, 50)])
def test_the_largest_eigenvalue_of_noise_exceeds_the_threshold_once_in_a_hundred(size: tuple[int, int]) -> None:
    law = MarchenkoPastur(1.0, size)
    beyond = sum(noise(*size, seed)[0] > law.threshold for seed in range(200))
    assert beyond <= 7  # of 2 expected; more than 7 has a chance below one in a thousand
    above_edge = sum(noise(*size, seed)[0] > 1.2 * law.edge for seed in range(20))
    assert above_edge == 0


def test_the_density_is_one_and_ends_at_the_edges() -> None:
    law = MarchenkoPastur(0.5, (400, 100))
    x = np.linspace(law.low, law.edge, 200_001)
    density = law.density(x)
    assert np.trapezoid(density, x) == pytest.approx(1, abs=1e-4)
    assert law.density(np.array([law.low * 0.99, law.edge * 1.01])).tolist() == [0, 0]


def test_spikes_do_not_move_the_median_but_the_variance() -> None:
    values = np.concatenate([np.full(5, 1e5), noise(600, 200, 1)[5:]])
    assert fitted(values, (600, 200), "median").sigma == pytest.approx(1, rel=0.05)
    assert fitted(values, (600, 200), "variance").sigma > 2


def test_a_fit_of_another_name_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="no fit of the noise named 'medium'; did you mean 'median'"):
        fitted(np.ones(3), (3, 3), "medium")
