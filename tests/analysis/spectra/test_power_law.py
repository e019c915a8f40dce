import numpy as np
import pytest
import torch

from weightspace.analysis.spectra.power_law import bootstrapped, fit


def drawn(alpha: float, count: int, seed: int) -> np.ndarray:
    """Values of the law from 1 on."""
    return np.asarray((1 - np.random.default_rng(seed).random(count)) ** (-1 / (alpha - 1)))


def slowly(values: np.ndarray) -> tuple[float, float, float]:
    """Exponent, xmin and distance, every start tried."""
    data = np.sort(values)
    tried = []
    for at in range(len(data) - 1):
        tail = data[at:]
        alpha = 1 + len(tail) / np.log(tail / tail[0]).sum()
        law = 1 - (tail / tail[0]) ** (1 - alpha)
        tried.append((np.abs(law - np.arange(len(tail)) / len(tail)).max(), at, alpha))
    distance, at, alpha = min(tried)
    return float(alpha), float(data[at]), float(distance)


@pytest.mark.parametrize("seed", range(8))
def test_agrees_with_trying_every_start(seed: int) -> None:
    values = np.random.default_rng(seed).lognormal(size=200 + 40 * seed)
    found = fit(values)
    assert found is not None
    np.testing.assert_allclose((found.alpha, found.xmin, found.distance), slowly(values), rtol=1e-10)


@pytest.mark.parametrize("alpha", [1.8, 2.5, 4.0])
def test_recovers_a_planted_exponent(alpha: float) -> None:
    found = fit(drawn(alpha, 5000, 0))
    assert found is not None
    assert found.alpha == pytest.approx(alpha, abs=4 * found.sigma)
    assert found.sigma == pytest.approx((found.alpha - 1) / found.n**0.5)


def test_finds_where_the_tail_begins() -> None:
    body = np.random.default_rng(0).uniform(0.01, 1, 3000)
    found = fit(np.concatenate([body, drawn(3.0, 3000, 1)]))
    assert found is not None
    assert 0.8 < found.xmin < 1.3
    assert found.alpha == pytest.approx(3.0, abs=0.2)


def test_scale_and_order_are_of_no_concern() -> None:
    values = drawn(2.5, 300, 2)
    one, other = fit(values), fit(1e9 * values[::-1])
    assert one is not None and other is not None
    assert other.alpha == pytest.approx(one.alpha, rel=1e-9)
    assert other.n == one.n


def test_few_values_are_corrected_for_bias_and_keep_eight() -> None:
    values = drawn(3.0, 12, 3)
    found = fit(values)
    assert found is not None
    assert found.n >= 8
    tail = np.sort(values)[-found.n :]
    assert found.alpha == pytest.approx(1 + (found.n - 1) / np.log(tail / tail[0]).sum())


@pytest.mark.parametrize("values", [np.ones(50), np.zeros(50), np.arange(1.0, 8.0), np.empty(0), np.full(9, 1e-300)])
def test_where_there_is_no_tail_there_is_no_fit(values: np.ndarray) -> None:
    assert fit(values) is None


def test_zeros_are_left_out() -> None:
    values = drawn(2.5, 300, 4)
    assert fit(np.concatenate([values, np.zeros(100)])) == fit(values)


def test_resamples_depend_on_the_generator_alone() -> None:
    values = drawn(2.5, 100, 5)
    first, again, other = (bootstrapped(values, 5, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert len(first) == 5
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert not len(bootstrapped(np.ones(3), 5, torch.Generator()))


@pytest.mark.slow
def test_intervals_cover_the_planted_exponent() -> None:
    """Of 60 intervals at 95%: nominal coverage, less what chance and the choice of xmin may take."""
    inside = 0
    for seed in range(60):
        draws = bootstrapped(drawn(3.0, 400, seed), 100, torch.Generator().manual_seed(seed))
        low, high = np.quantile(draws, [0.025, 0.975])
        inside += low <= 3.0 <= high
    assert inside >= 51
