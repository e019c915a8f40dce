"""CKA, canonical correlations and Procrustes: invariances and what they are not, bounds, slow references, degenerate input."""

import itertools
import math
import tracemalloc
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weightspace.analysis.moments import BLOCK, CCA, Moments, Sums
from weightspace.analysis.similarity import cca, kernel_cka, linear_cka, linear_regression, orthogonal_error, procrustes
from weightspace.errors import AnalysisError, UnknownNameError

ORTHOGONAL: dict[str, Callable[[Tensor, Tensor], float]] = {
    "linear": linear_cka,
    "debiased": partial(linear_cka, debiased=True),
    "kernel": kernel_cka,
    "debiased kernel": partial(kernel_cka, debiased=True),
    "procrustes": procrustes,
    "angular": partial(procrustes, angular=True),
}
LINEAR: dict[str, Callable[[Tensor, Tensor], float]] = {"mean": cca, "squared": partial(cca, variant="squared")}
ALL = ORTHOGONAL | LINEAR


def drawn(seed: int, samples: int = 40, units: tuple[int, int] = (5, 7)) -> tuple[Tensor, Tensor]:
    """Two representations that share a part, far from zero."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.randn(samples, 4, generator=generator, dtype=torch.float64)
    return tuple(  # type: ignore[return-value]
        shared @ torch.randn(4, n, generator=generator, dtype=torch.float64)
        + torch.randn(samples, n, generator=generator, dtype=torch.float64)
        + 3
        for n in units
    )


def rotation(size: int, generator: torch.Generator) -> Tensor:
    made: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    return made


@pytest.mark.parametrize("name", ORTHOGONAL)
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), scale=st.floats(0.01, 100))
def test_orthogonal_maps_shifts_and_one_scale_change_nothing(name: str, seed: int, scale: float) -> None:
    (x, y), measure, generator = drawn(seed), ORTHOGONAL[name], torch.Generator().manual_seed(seed)
    assert measure(scale * x @ rotation(5, generator) + 7, y) == pytest.approx(measure(x, y), abs=1e-8)


@pytest.mark.parametrize("name", LINEAR)
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_invertible_maps_do_not_change_cca(name: str, seed: int) -> None:
    (x, y), measure, generator = drawn(seed), LINEAR[name], torch.Generator().manual_seed(seed)
    map = rotation(5, generator) * torch.tensor([0.1, 0.5, 1.0, 4.0, 9.0]).double() @ rotation(5, generator)
    assert measure(x @ map + 1, y) == pytest.approx(measure(x, y), abs=1e-7)
    assert measure(y, x @ map) == pytest.approx(measure(x, y), abs=1e-7)


@pytest.mark.parametrize("name", ORTHOGONAL)
def test_invertible_maps_do_change_the_others(name: str) -> None:
    x, y = drawn(0)
    stretched = x * torch.tensor([20.0, 1, 1, 1, 0.05]).double()
    assert abs(ORTHOGONAL[name](stretched, y) - ORTHOGONAL[name](x, y)) > 0.01


@pytest.mark.parametrize("name", ALL)
def test_one_order_of_samples_for_both_changes_nothing_and_two_do(name: str, generator: torch.Generator) -> None:
    x, y = drawn(1)
    order = torch.randperm(len(x), generator=generator)
    assert ALL[name](x[order], y[order]) == pytest.approx(ALL[name](x, y), abs=1e-9)
    assert abs(ALL[name](x[order], y) - ALL[name](x, y)) > 0.05


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_bounds_symmetry_and_self(name: str, seed: int) -> None:
    (x, y), measure = drawn(seed), ALL[name]
    value, own = measure(x, y), measure(x, x)
    most = math.sqrt(2) if name == "procrustes" else math.pi / 2 if name == "angular" else 1.0
    assert (-1 if "debiased" in name else 0) <= value <= most
    assert measure(y, x) == pytest.approx(value, abs=1e-9)
    assert own == (0.0 if name in ("procrustes", "angular") else pytest.approx(1.0, abs=1e-9))


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_procrustes_is_a_metric(seed: int) -> None:
    (x, y), (z, _) = drawn(seed), drawn(seed + 1)
    for angular in (False, True):
        distance = partial(procrustes, angular=angular)
        assert distance(x, z) <= distance(x, y) + distance(y, z) + 1e-9


def test_linear_cka_is_the_definition() -> None:
    x, y = (part.numpy() for part in drawn(2))
    h = np.eye(40) - 1 / 40

    def hsic(one: np.ndarray, two: np.ndarray) -> float:
        return float(np.trace(one @ one.T @ h @ two @ two.T @ h))

    expected = hsic(x, y) / math.sqrt(hsic(x, x) * hsic(y, y))
    assert linear_cka(torch.tensor(x), torch.tensor(y)) == pytest.approx(expected, rel=1e-10)


def brute_hsic(x: Tensor, y: Tensor) -> float:
    """The U-statistic itself: a mean over all four different samples (Song et al., 2012, equation 4)."""
    k, l, n = (x @ x.T).tolist(), (y @ y.T).tolist(), len(x)  # noqa: E741
    quadruples = list(itertools.permutations(range(n), 4))
    total = sum(k[i][j] * l[i][j] + k[i][j] * l[q][r] - 2 * k[i][j] * l[i][q] for i, j, q, r in quadruples)
    return float(total / len(quadruples))


@pytest.mark.parametrize("units", [(2, 3), (9, 8)])
def test_debiased_cka_is_the_u_statistic_in_both_forms(units: tuple[int, int]) -> None:
    x, y = drawn(3, 7, units)
    sums = Sums()
    sums.add(x, y)
    assert sums.unbiased_hsic == pytest.approx(brute_hsic(x, y), rel=1e-9)
    expected = brute_hsic(x, y) / math.sqrt(brute_hsic(x, x) * brute_hsic(y, y))
    assert linear_cka(x, y, debiased=True) == pytest.approx(expected, rel=1e-9)  # more samples than units, and fewer


@pytest.mark.parametrize("debiased", [False, True])
def test_kernels_and_moments_agree(debiased: bool) -> None:
    x, y = drawn(4, 30, (29, 31))
    moments = Moments()
    moments.add(x, y)
    assert moments.cka(debiased=debiased) == pytest.approx(linear_cka(x, y, debiased=debiased), abs=1e-10)


def test_kernel_cka_is_the_definition_and_wide_kernels_come_to_linear_ones() -> None:
    x, y = drawn(5, 12)
    h = torch.eye(12).double() - 1 / 12

    def kernel(values: Tensor) -> Tensor:
        apart = torch.tensor([[float((a - b).norm()) for b in values] for a in values]).double()
        median = torch.tensor([apart[i, j] for i in range(12) for j in range(12) if i != j]).median()
        return h @ torch.exp(-apart.square() / (2 * (0.5 * median) ** 2)) @ h

    k, l = kernel(x), kernel(y)  # noqa: E741
    assert kernel_cka(x, y) == pytest.approx(float((k * l).sum() / (k.norm() * l.norm())), rel=1e-6)
    assert kernel_cka(x, y, bandwidth=1000.0) == pytest.approx(linear_cka(x, y), abs=1e-4)


def test_unrelated_wide_representations_are_near_zero_once_debiased(generator: torch.Generator) -> None:
    biased, debiased = [], []
    for _ in range(20):
        x, y = torch.randn(50, 400, generator=generator), torch.randn(50, 400, generator=generator)
        biased.append(linear_cka(x, y))
        debiased.append(linear_cka(x, y, debiased=True))
    assert min(biased) > 0.85
    assert max(map(abs, debiased)) < 0.1 and abs(sum(debiased) / 20) < 0.02


def qr_correlations(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Canonical correlations and variates of the first, by QR of the samples."""
    one, two = (torch.linalg.qr(values - values.mean(0))[0] for values in (x, y))
    u, s, _ = torch.linalg.svd(one.T @ two, full_matrices=False)
    return s, one @ u


def test_cca_is_that_of_the_samples() -> None:
    x, y = drawn(6, 60)
    values, variates = qr_correlations(x, y)
    assert cca(x, y) == pytest.approx(float(values.mean()), abs=1e-8)
    weights = (variates.T @ (x - x.mean(0))).abs().sum(1)
    assert cca(x, y, "pwcca") == pytest.approx(float((weights * values).sum() / weights.sum()), abs=1e-8)


def test_svcca_drops_directions_that_hardly_vary(generator: torch.Generator) -> None:
    x, y = drawn(7, 400, (3, 3))
    noisy = [torch.cat([values, 1e-3 * torch.randn(400, 10, generator=generator).double()], 1) for values in (x, y)]
    assert cca(noisy[0], noisy[1], "svcca") == pytest.approx(cca(x, y), abs=1e-3)
    assert cca(noisy[0], noisy[1]) < cca(x, y) - 0.1


def test_procrustes_is_scipys() -> None:
    from scipy.spatial import procrustes as reference

    x, y = drawn(8, 30, (6, 6))
    disparity = reference(x.numpy(), y.numpy())[2]
    assert procrustes(x, y) == pytest.approx(math.sqrt(2 - 2 * math.sqrt(1 - disparity)), rel=1e-9)
    assert procrustes(x, y, angular=True) == pytest.approx(math.acos(math.sqrt(1 - disparity)), rel=1e-9)


def slow_hsic(k: np.ndarray, l: np.ndarray) -> float:  # noqa: E741
    """The unbiased HSIC of two kernels, sum by sum (Song et al., 2012, equation 5)."""
    n = len(k)
    others = [(i, j) for i in range(n) for j in range(n) if i != j]
    trace = sum(k[i, j] * l[j, i] for i, j in others)
    totals = sum(k[i, j] for i, j in others) * sum(l[i, j] for i, j in others)
    rows = sum(k[i, j] * l[j, q] for i, j in others for q in range(n) if q != j)
    return float((trace + totals / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)) / (n * (n - 3)))


@pytest.mark.parametrize("samples", [4, 5, 9, 25])
@pytest.mark.parametrize("units", [(2, 3), (30, 40)])
def test_debiased_cka_of_few_samples_is_the_slow_one_in_both_forms(samples: int, units: tuple[int, int]) -> None:
    x, y = drawn(14, samples, units)
    k, l = (values.numpy() @ values.numpy().T for values in (x - x.mean(0), y - y.mean(0)))  # noqa: E741
    between, one, two = slow_hsic(k, l), slow_hsic(k, k), slow_hsic(l, l)
    expected = min(between / math.sqrt(one * two), 1.0) if one > 0 and two > 0 else math.nan
    whole = Moments()  # the feature form, whatever the widths are
    whole.add(x, y)
    assert linear_cka(x, y, debiased=True) == pytest.approx(expected, rel=1e-9, nan_ok=True)
    assert whole.cka(debiased=True) == pytest.approx(expected, rel=1e-7, nan_ok=True)
    assert whole.cka() == pytest.approx(linear_cka(x, y), rel=1e-10)


@pytest.mark.parametrize("units", [(6, 9), (9, 6)])
def test_svcca_pwcca_and_procrustes_are_those_of_slow_numpy(units: tuple[int, int]) -> None:
    x, y = (part.numpy() - part.numpy().mean(0) for part in drawn(15, 80, units))

    def kept(values: np.ndarray) -> np.ndarray:
        u, s, _ = np.linalg.svd(values, full_matrices=False)
        count = int(np.searchsorted(np.cumsum(s**2) / np.sum(s**2), 0.99 - 1e-12)) + 1
        return u[:, :count]

    correlations = np.linalg.svd(kept(x).T @ kept(y), compute_uv=False)
    one, two = torch.tensor(x), torch.tensor(y)
    assert cca(one, two, "svcca") == pytest.approx(float(correlations.mean()), abs=1e-8)
    variates, values, _ = np.linalg.svd(np.linalg.qr(x)[0].T @ np.linalg.qr(y)[0], full_matrices=False)
    weights = np.abs((np.linalg.qr(x)[0] @ variates).T @ x).sum(1)
    assert cca(one, two, "pwcca") == pytest.approx(float((weights * values).sum() / weights.sum()), abs=1e-8)
    assert cca(one, two, "squared") == pytest.approx(float((values**2).mean()), abs=1e-8)
    left, right = x / np.linalg.norm(x), y / np.linalg.norm(y)
    expected = math.sqrt(2 - 2 * np.linalg.svd(left.T @ right, compute_uv=False).sum())
    assert procrustes(one, two) == pytest.approx(expected, rel=1e-9)


def test_linear_regression_is_r_squared_of_least_squares_with_an_intercept() -> None:
    x, y = drawn(16)
    with_one = np.concatenate([x.numpy(), np.ones((40, 1))], 1)
    missed = y.numpy() - with_one @ np.linalg.lstsq(with_one, y.numpy(), rcond=None)[0]
    expected = 1 - (missed**2).sum() / ((y - y.mean(0)).numpy() ** 2).sum()
    assert linear_regression(x, y) == pytest.approx(expected, rel=1e-9)
    q = np.linalg.qr((x - x.mean(0)).numpy())[0]  # as Csiszarik et al. write it
    centred = (y - y.mean(0)).numpy()
    assert linear_regression(x, y) == pytest.approx(np.linalg.norm(q.T @ centred) ** 2 / np.linalg.norm(centred) ** 2, rel=1e-9)


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_linear_regression_has_a_direction_and_does_not_see_maps_of_the_first(seed: int) -> None:
    (x, y), generator = drawn(seed), torch.Generator().manual_seed(seed)
    map = rotation(5, generator) * torch.tensor([0.1, 0.5, 1.0, 4.0, 9.0]).double() @ rotation(5, generator)
    assert linear_regression(x @ map + 1, y) == pytest.approx(linear_regression(x, y), abs=1e-7)
    assert 0 <= linear_regression(x, y) < 1 and linear_regression(x, x @ map) == pytest.approx(1)
    assert linear_regression(y, x) != pytest.approx(linear_regression(x, y), rel=1e-3)
    part = torch.cat([x, y], 1)
    assert linear_regression(part, y) == pytest.approx(1) and linear_regression(y, part) < 1


def test_orthogonal_least_squares_is_scipys() -> None:
    from scipy.linalg import orthogonal_procrustes

    x, y = drawn(17, 30, (6, 6))
    one, two = (values.numpy() - values.numpy().mean(0) for values in (x, y))
    left = np.linalg.norm(one @ orthogonal_procrustes(one, two)[0] - two) ** 2 / np.linalg.norm(two) ** 2
    assert orthogonal_error(x, y) == pytest.approx(left, rel=1e-9)
    turn = rotation(6, torch.Generator().manual_seed(0))
    assert orthogonal_error(x, x @ turn + 2) == pytest.approx(0, abs=1e-9)
    assert orthogonal_error(x, 2 * x @ turn) == pytest.approx(0.25), "scales are no rotations"
    scale = torch.tensor(1 - procrustes(x, y) ** 2 / 2) * (two**2).sum() ** 0.5 / (one**2).sum() ** 0.5
    assert orthogonal_error(x * scale, y) == pytest.approx(1 - (1 - procrustes(x, y) ** 2 / 2) ** 2, rel=1e-6)
    assert orthogonal_error(x[:, :4], y) > 0


def test_unit_by_unit() -> None:
    x, y = drawn(18, 40, (5, 5))
    moments = Moments()
    moments.add(x, y)
    assert moments.l2() == pytest.approx(float((x - y).norm() / (y - y.mean(0)).norm()))
    assert moments.correlation() == pytest.approx(float(np.mean([np.corrcoef(x[:, at], y[:, at])[0, 1] for at in range(5)])))
    other = Moments()
    other.add(*drawn(18))
    assert math.isnan(other.l2()) and math.isnan(other.correlation())


def test_where_the_fit_is_forced_there_is_no_linear_regression() -> None:
    x, y = drawn(10, 7)
    assert not math.isnan(linear_regression(x, y))
    assert math.isnan(linear_regression(x[:6], y[:6]))


@settings(max_examples=20)
@given(seed=st.integers(0, 1000), cuts=st.lists(st.integers(0, 40), max_size=5))
def test_parts_give_what_the_whole_gives(seed: int, cuts: list[int]) -> None:
    x, y = drawn(seed)
    whole, parts = Moments(), Moments()
    whole.add(x, y)
    for one, two in itertools.pairwise([0, *sorted(cuts), 40]):
        parts.add(x[one:two], y[one:two])
    assert parts.count == 40
    assert parts.cka(debiased=True) == pytest.approx(whole.cka(debiased=True), abs=1e-9)
    assert parts.cca("pwcca") == pytest.approx(whole.cca("pwcca"), abs=1e-9)
    assert parts.procrustes() == pytest.approx(whole.procrustes(), abs=1e-9)
    assert parts.explained() == pytest.approx(whole.explained(), abs=1e-9)
    assert parts.orthogonal_error() == pytest.approx(whole.orthogonal_error(), abs=1e-9)
    torch.testing.assert_close(parts.correlations(), torch.tensor(np.corrcoef(x.T, y.T)[:5, 5:]))


def test_memory_does_not_grow_with_samples(generator: torch.Generator) -> None:
    moments = Moments()

    def held() -> int:
        return sum(
            value.numel() for sums in (moments.x, moments.y, moments.between) for value in vars(sums).values() if isinstance(value, Tensor)
        )

    part = torch.randn(100, 8, generator=generator)
    moments.add(part, part)
    before = held()
    tracemalloc.start()
    for _ in range(200):
        moments.add(part, part)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held() == before < 400 and grown < 20_000 and moments.count == 20_100


def test_products_of_one_with_itself_are_whole_though_half_is_computed(generator: torch.Generator) -> None:
    x = torch.randn(30, 2 * BLOCK + 7, generator=generator).double()
    own = Sums()
    for part in torch.split(x, 11):
        own.add(part, part)
    around = x - x.mean(0)
    torch.testing.assert_close(own.cross, around.T @ around)
    torch.testing.assert_close(own.cross, own.cross.T, rtol=1e-12, atol=1e-12)


def test_a_mean_over_batches_of_another_size_is_the_same() -> None:
    x, y = drawn(19, 60)
    found = []
    for size in (60, 7, 4, 1):
        moments = Moments()
        for one, two in zip(torch.split(x, size), torch.split(y, size), strict=True):
            moments.add(one, two)
        found.append(moments.cka(debiased=True))
    assert found == pytest.approx([linear_cka(x, y, debiased=True)] * 4, abs=1e-12), "sums, not means of ratios"


def test_what_is_undefined_has_a_reason() -> None:
    x, y = drawn(20)
    still = torch.ones(40, 2)
    for one, two, said in (
        (x[:3], y[:3], r"too few samples (3) for 5 and 7 units"),
        (still, y, "the first does not vary"),
        (x, still, "the second does not vary"),
        (x[:0], y[:0], "no common samples"),
    ):
        moments = Moments()
        moments.add(one, two)
        assert moments.undefined == said


@pytest.mark.parametrize("name", [*ALL, "regression", "orthogonal"])
def test_what_is_not_defined_is_nan(name: str) -> None:
    x, y = drawn(9)
    measure = {**ALL, "regression": linear_regression, "orthogonal": orthogonal_error}[name]
    constant = torch.full((40, 3), 0.1)
    assert math.isnan(measure(x, constant)) and math.isnan(measure(constant, constant)) and math.isnan(measure(constant, y))
    assert math.isnan(measure(x[:1], y[:1]))
    if "debiased" in name:
        assert math.isnan(measure(x[:3], y[:3]))


def test_cca_of_too_few_samples_is_nan_where_ones_are_forced() -> None:
    x, y = drawn(10, 13)
    assert not math.isnan(cca(x, y))
    assert math.isnan(cca(x[:12], y[:12])) and math.isnan(cca(x[:12], y[:12], "pwcca"))


def test_large_means_cost_no_digits() -> None:
    x, y = drawn(11)
    assert linear_cka(x + 1e6, y - 1e6) == pytest.approx(linear_cka(x, y), abs=1e-8)
    assert linear_cka(x + 1e6, y, debiased=True) == pytest.approx(linear_cka(x, y, debiased=True), abs=1e-8)


def test_units_that_do_not_vary_have_no_correlation() -> None:
    x, y = drawn(12)
    x[:, 2] = 0.3
    moments = Moments()
    moments.add(x, y)
    assert torch.isnan(moments.correlations()).all(1).tolist() == [False, False, True, False, False]


def test_messages() -> None:
    x, y = drawn(13)
    for measure in [*ALL.values(), linear_regression, orthogonal_error]:
        with pytest.raises(AnalysisError, match=r"activations of the same samples, found 40 and 39.*on one data set"):
            measure(x, y[1:])
        with pytest.raises(AnalysisError, match="expected finite activations, found NaN or infinite"):
            measure(x, torch.where(y > 3, torch.nan, y))
    with pytest.raises(UnknownNameError, match="no variant of CCA named 'svca'; did you mean 'svcca'"):
        Moments().cca("svca")
    with pytest.raises(AnalysisError, match="expected a bandwidth above 0, found 0"):
        kernel_cka(x, y, bandwidth=0.0)
    with pytest.raises(AnalysisError, match="expected samples, found none"):
        linear_cka(x[:0], y[:0])
    with pytest.raises(AnalysisError, match="expected samples, found none"):
        procrustes(x[:0], y[:0])
    moments = Moments()
    moments.add(x, y)
    with pytest.raises(AnalysisError, match="expected 5 and 7 units as before, found 7 and 5"):
        moments.add(y, x)
    assert set(CCA) == {"mean", "squared", "svcca", "pwcca"}
