"""Each kind of stitch finds what it is to find, and gives a defined map where data says nothing."""

import math

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from weightspace.analysis.moments import Moments
from weightspace.analysis.stitching import Affine, Bridge, Stitch, stitches
from weightspace.analysis.stitching.equations import Equations, Places
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.tracing.cutting import Cut


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moments(x: torch.Tensor, y: torch.Tensor) -> Moments:
    made = Moments()
    made.add(x, y)
    return made


def missed(affine: Affine, x: torch.Tensor, y: torch.Tensor) -> float:
    return float((x @ affine.weight.T + affine.bias - y).square().sum() / (y - y.mean(0)).square().sum())


X = drawn(80, 5) @ drawn(5, 5, seed=1) + 3
NOISE = 0.3 * drawn(80, 5, seed=2)


def test_without_a_ridge_linear_is_the_pseudo_inverse_with_an_intercept() -> None:
    y = drawn(80, 4, seed=3) + X[:, :4]
    found = stitches["linear"](moments(X, y), ridge=0.0)
    expected = torch.linalg.pinv(torch.cat([X, torch.ones(80, 1, dtype=X.dtype)], 1)) @ y
    assert torch.allclose(found.weight.T, expected[:-1], atol=1e-9) and torch.allclose(found.bias, expected[-1], atol=1e-8)


def test_a_ridge_is_a_share_of_the_variance_and_leaves_the_intercept_alone() -> None:
    y = X @ drawn(5, 4, seed=4) + NOISE[:, :4]
    found = stitches["linear"](moments(X, y), ridge=0.1)
    x, wanted = X - X.mean(0), y - y.mean(0)
    added = 0.1 * x.square().sum(0).mean() * torch.eye(5, dtype=x.dtype)
    assert torch.allclose(found.weight.T, torch.linalg.solve(x.T @ x + added, x.T @ wanted))
    assert torch.allclose(X.mean(0) @ found.weight.T + found.bias, y.mean(0))


def test_by_default_a_ridge_is_there_where_there_are_few_samples_and_none_where_nothing_is_missed() -> None:
    x, truth = drawn(1030, 40, seed=5), drawn(40, 8, seed=6) / 6
    y = x @ truth + drawn(1030, 8, seed=7)
    few = moments(x[:30], y[:30])  # fewer than units
    errors = {ridge: missed(stitches["linear"](few, ridge=ridge), x[30:], y[30:]) for ridge in (None, 0.0)}
    assert errors[None] < 1 < errors[0.0]
    exact = stitches["linear"](moments(x, x @ truth))
    assert torch.allclose(exact.weight, truth.T, atol=1e-8)


def test_orthogonal_finds_a_rotation_about_the_means_and_a_scale() -> None:
    rotation = torch.linalg.qr(drawn(5, 5, seed=8)).Q
    y = 2.5 * X @ rotation + 7
    plain, scaled = stitches["orthogonal"](moments(X, y)), stitches["orthogonal"](moments(X, y), scale=True)
    assert torch.allclose(plain.weight, rotation.T, atol=1e-9)
    assert torch.allclose(scaled.weight, 2.5 * rotation.T, atol=1e-9) and missed(scaled, X, y) < 1e-18
    eye = torch.eye(5, dtype=torch.float64)
    assert torch.allclose(plain.weight @ plain.weight.T, eye, atol=1e-9)


def test_orthogonal_turns_as_little_as_can_be_where_nothing_varies() -> None:
    x = X.clone()
    x[:, 1], x[:, 3] = 2.0, x[:, 0]
    found = stitches["orthogonal"](moments(x, x))
    assert torch.allclose(found.weight, torch.eye(5, dtype=x.dtype), atol=1e-9)
    constant = stitches["orthogonal"](moments(torch.ones(9, 3), torch.full((9, 3), 4.0)), scale=True)
    assert torch.equal(constant.weight, torch.zeros(3, 3).double()) and constant.bias.tolist() == [4, 4, 4]


def test_low_rank_is_the_best_of_its_rank_as_samples_show_it() -> None:
    y = X @ drawn(5, 6, seed=9) + 0.5 * drawn(80, 6, seed=10)
    full = stitches["linear"](moments(X, y), ridge=0.0)
    x, wanted = X - X.mean(0), y - y.mean(0)
    for rank in (1, 2, 4):
        found = stitches["low_rank"](moments(X, y), rank=rank, ridge=0.0)
        # Slow and obvious: the fitted values' own right singular vectors.
        directions = torch.linalg.svd(x @ full.weight.T).Vh[:rank]
        assert torch.allclose(found.weight, directions.T @ directions @ full.weight, atol=1e-8)
        assert torch.linalg.matrix_rank(found.weight) == rank
        worse = torch.linalg.svd(full.weight.T, full_matrices=False)
        cut = (worse.U[:, :rank] * worse.S[:rank]) @ worse.Vh[:rank]
        assert missed(found, X, y) <= float((x @ cut - wanted).square().sum() / wanted.square().sum())
    assert torch.equal(stitches["low_rank"](moments(X, y), rank=99).weight, stitches["linear"](moments(X, y)).weight)


def test_permutation_recovers_one_and_its_scales() -> None:
    order = torch.tensor([3, 0, 4, 1, 2])
    factors = torch.tensor([2.0, 0.5, -3.0, 1.0, 4.0], dtype=torch.float64)
    found = stitches["permutation"](moments(X, X[:, order] + 0.1 * NOISE))
    assert torch.equal(found.weight.argmax(1), order) and torch.equal(found.weight.sum(0), torch.ones(5).double())
    scaled = stitches["permutation"](moments(X, X[:, order] * factors - 1), scale=True)
    assert missed(scaled, X, X[:, order] * factors - 1) < 1e-18
    y = drawn(80, 5, seed=11) + X
    rows, columns = linear_sum_assignment(torch.corrcoef(torch.cat([X, y], 1).T)[:5, 5:].numpy(), maximize=True)
    assert torch.equal(stitches["permutation"](moments(X, y)).weight[columns, rows], torch.ones(5).double())


def test_semi_matching_takes_the_best_unit_for_each_and_may_take_it_twice() -> None:
    y = torch.stack([2 * X[:, 1], -X[:, 1] + 4, X[:, 3]], 1)
    found = stitches["semi_matching"](moments(X, y))
    assert found.weight.abs().argmax(1).tolist() == [1, 1, 3] and missed(found, X, y) < 1e-18


def test_controls_look_at_no_data() -> None:
    assert [name for name, one in stitches.items() if one.is_control] == ["identity", "random"]
    one, other = (stitches["random"](moments(X, y), generator=torch.Generator().manual_seed(3)) for y in (X, NOISE))
    assert torch.equal(one.weight, other.weight) and not one.bias.any()
    wide = stitches["random"](moments(drawn(3, 400), drawn(3, 50)))
    assert float(wide.weight.std()) == pytest.approx(math.sqrt(2 / 400), rel=0.05)
    assert torch.equal(stitches["identity"](moments(X, NOISE)).weight, torch.eye(5).double())


@pytest.mark.parametrize("name", [name for name, one in stitches.items() if not one.is_control])
def test_units_that_do_not_vary_are_met_by_the_intercept(name: str) -> None:
    x, y = X.clone(), X.flip(1) + NOISE
    x[:, 2], y[:, 4] = 1e6, -5.0
    found = stitches[name](moments(x, y))
    assert bool(found.weight.isfinite().all())
    mapped = x @ found.weight.T + found.bias
    if name != "orthogonal":
        assert torch.allclose(mapped.mean(0), y.mean(0), atol=1e-6)
    if name not in ("orthogonal", "permutation"):
        assert float(found.weight[:, 2].abs().max()) < 1e-12 and torch.allclose(mapped[:, 4], y[:, 4], atol=1e-6)
    still = stitches[name](moments(torch.ones(6, 3), torch.full((6, 3), 2.0)))
    assert torch.allclose(torch.ones(3).double() @ still.weight.T + still.bias, torch.full((3,), 2.0).double())


def test_what_cannot_be_found_is_said_in_one_line() -> None:
    with pytest.raises(UnknownNameError, match="no stitch named 'liner'; did you mean 'linear'"):
        stitches["liner"]
    with pytest.raises(AnalysisError, match="stitch 'linear' has no setting 'rank'; its settings are ridge"):
        stitches["linear"](moments(X, X), rank=3)
    with pytest.raises(AnalysisError, match="stitch 'identity' has no setting 'rank'; its settings are none"):
        stitches["identity"](moments(X, X), rank=3)
    for name in ("orthogonal", "permutation", "identity"):
        with pytest.raises(AnalysisError, match=f"stitch '{name}' needs as many units on both sides, found 5 and 3; take 'linear'"):
            stitches[name](moments(X, X[:, :3]))
    for name in stitches:
        with pytest.raises(AnalysisError, match="a stitch needs two samples or more, found 1; give it more data"):
            stitches[name](moments(X[:1], X[:1]))
    for ridge in (-1.0, math.nan, math.inf):
        with pytest.raises(AnalysisError, match=r"expected a ridge of 0 or more, found .*; give a share of the variance"):
            stitches["linear"](moments(X, X), ridge=ridge)
    with pytest.raises(AnalysisError, match="expected a rank of 1 or more, found 0; give the number of directions that pass"):
        stitches["low_rank"](moments(X, X), rank=0)
    with pytest.raises(AnalysisError, match="expected finite activations, found NaN or infinite ones"):
        moments(X, X / 0)


def test_a_map_must_fit_its_bridge() -> None:
    bridge = Bridge(Cut("a", (4,), 0), Cut("b", (3,), 0))
    with pytest.raises(
        AnalysisError, match="expected a map from 4 to 3 units between 'a' and 'b', found one from 2 to 3; find it for these"
    ):
        Stitch(bridge, Affine(torch.zeros(3, 2), torch.zeros(3)))
    with pytest.raises(
        AnalysisError, match=r"expected a bias of shape \(3,\), or \(1, 3\) for each place of cut 'b', found \(2, 3\); find"
    ):
        Stitch(bridge, Affine(torch.zeros(3, 4), torch.zeros(2, 3)))
    assert not Stitch(bridge)(torch.ones(2, 4)).any() and "a (4,) -> b (3,)" in repr(Stitch(bridge))


def test_equations_about_the_means_of_places_are_those_of_deviations_from_them() -> None:
    x, y = drawn(30, 4, 5) + 10 * drawn(4, 5, seed=1), drawn(30, 4, 3, seed=2) - 10 * drawn(4, 3, seed=3)
    x[..., 2] = 5 * drawn(4, seed=4)  # varies between places only
    summed, places = Moments(), Places()
    for at in (0, 10, 20):
        summed.add(x[at : at + 10].flatten(0, 1), y[at : at + 10].flatten(0, 1))
        places.add(x[at : at + 10], y[at : at + 10])
    found = Equations.of(summed, places)
    a, b = ((one - one.mean(0)).flatten(0, 1) for one in (x, y))
    assert torch.allclose(found.x, a.T @ a, atol=1e-9) and torch.allclose(found.y, b.T @ b, atol=1e-9)
    assert torch.allclose(found.between, a.T @ b, atol=1e-9) and not found.x[2].any() and not found.between[2].any()
    assert torch.allclose(found.taken, x.mean(0)) and torch.allclose(found.wanted, y.mean(0))
    assert found.rank == 4 and Equations.of(summed).rank == 5
    for ridge in (0.0, 0.2):
        affine = stitches["linear"](found, ridge=ridge)
        assert affine.bias.shape == (4, 3)
        seen = (x @ affine.weight.T + affine.bias - y).square().sum() / b.square().sum()
        assert found.error(affine.weight, affine.bias) == pytest.approx(float(seen))
        assert found.error(affine.weight, affine.bias + 1) == pytest.approx(float(seen + 30 * 4 * 3 / b.square().sum()))
    assert math.isnan(Equations.of(moments(X, torch.ones(80, 2))).error(torch.zeros(2, 5).double(), torch.ones(2).double()))
