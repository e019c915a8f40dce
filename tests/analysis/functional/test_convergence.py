"""Convergent learning: pairings, sparse predictions and clusters of units."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import Tensor

from tests.analysis.functional.networks import digits, tiny10
from tests.pictures import expect_good
from weightspace.analysis.functional.clusters import cluster_units
from weightspace.analysis.functional.convergence import convergence, gather, pair_units
from weightspace.analysis.functional.prediction import predict_sparsely, sparse_prediction
from weightspace.analysis.moments import Moments
from weightspace.errors import AnalysisError
from weightspace.inference import infer_spec
from weightspace.symmetry import act


def of(x: Tensor, y: Tensor) -> Moments:
    made = Moments()
    made.add(x, y)
    return made


@settings(max_examples=15)
@given(seed=st.integers(0, 1000))
def test_a_permuted_copy_is_paired_whole(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, order = torch.randn(60, 9, generator=generator), torch.randperm(9, generator=generator)
    found = pair_units(of(x, x[:, order]).correlations())
    assert [int(order[partner]) for partner in found.one_to_one] == list(range(9))
    assert found.one_to_one == found.best and found.values()["one_to_one"] == pytest.approx(1) and found.values()["gap"] == pytest.approx(0)


def test_a_permuted_network_is_paired_whole(generator: torch.Generator) -> None:
    found = digits()
    network = found.networks[0]
    element = infer_spec(network).random(generator)
    pairs = convergence(found.task, network, act(element, network), layers=["relu1", "relu2"])
    for layer, group in (("relu1", "fc1"), ("relu2", "fc2")):
        index = element.actions[group].index
        one = pairs[layer]
        assert one.values()["one_to_one"] == pytest.approx(1, abs=1e-6)
        assert all(int(index[partner]) == unit for unit, partner in enumerate(one.one_to_one) if partner >= 0)


def test_the_hungarian_method_finds_the_best_of_all_pairings() -> None:
    import itertools

    table = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    best = max(sum(float(table[unit, other]) for unit, other in enumerate(order)) for order in itertools.permutations(range(5)))
    found = pair_units(table)
    assert sum(found.matched) == pytest.approx(best)
    assert found.greatest == pytest.approx(table.amax(1).tolist()) and found.values()["gap"] >= 0


def test_signs_count_unless_told(generator: torch.Generator) -> None:
    x = torch.randn(50, 4, generator=generator)
    correlations = of(x, -x).correlations()
    assert pair_units(correlations).values()["one_to_one"] < 0.5
    assert pair_units(correlations, absolute=True).values()["one_to_one"] == pytest.approx(1)


def test_dead_units_are_left_out(generator: torch.Generator) -> None:
    x = torch.randn(50, 4, generator=generator)
    x[:, 1] = 2
    found = pair_units(of(x, x).correlations())
    assert found.dead == 2 and found.one_to_one == found.best == (0, -1, 2, 3) and found.values()["one_to_one"] == pytest.approx(1)
    dead = pair_units(of(torch.ones(5, 2), torch.ones(5, 2)).correlations())
    assert math.isnan(dead.values()["one_to_one"]) and dead.dead == 4


def test_trained_seeds_share_units_far_beyond_chance(generator: torch.Generator) -> None:
    found = digits()
    layers = ["relu1", "relu2", "fc3"]
    pairs = convergence(found.task, *found.pair, layers=layers)
    chance = convergence(found.task, *found.pair, layers=layers, generator=generator)
    for layer in layers:
        assert pairs[layer].values()["one_to_one"] > 0.4 > 0.2 > chance[layer].values()["one_to_one"]
    assert pairs["fc3"].one_to_one == tuple(range(10))  # classes are the same


def test_real_seeds_share_units_far_beyond_chance(real_checkpoints: Path, generator: torch.Generator) -> None:
    task, networks = tiny10(real_checkpoints)
    layers = ["bn1", "bn4"]
    pairs = convergence(task, networks[0], networks[1], layers=layers)
    chance = convergence(task, networks[0], networks[1], layers=layers, generator=generator)
    for layer in layers:
        assert pairs[layer].values()["one_to_one"] > 0.3 and pairs[layer].values()["one_to_one"] > 2 * chance[layer].values()["one_to_one"]


def test_sparse_weights_are_those_of_the_lasso() -> None:
    from sklearn.linear_model import Lasso

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 6, generator=generator).double() @ torch.randn(6, 6, generator=generator).double()
    y = x @ torch.randn(6, 3, generator=generator).double() + torch.randn(100, 3, generator=generator).double()
    found = predict_sparsely(of(x, y), of(x, y), penalties=[0.3, 0.05])
    one, two = ((values - values.mean(0)) / values.std(0, correction=0) for values in (x, y))
    for penalty, weights, error, nonzeros in zip(found.penalties, found.weights, found.errors, found.nonzeros, strict=True):
        expected = Lasso(alpha=penalty, tol=1e-10, max_iter=100_000, fit_intercept=False).fit(one.numpy(), two.numpy())
        torch.testing.assert_close(weights, torch.tensor(expected.coef_), atol=1e-4, rtol=0)
        assert error == pytest.approx(float(np.mean((two.numpy() - expected.predict(one.numpy())) ** 2)), abs=1e-4)
        assert nonzeros == pytest.approx(float((np.abs(expected.coef_) > 1e-6).sum(1).mean()), abs=0.34)


def test_error_falls_as_weights_are_added_and_a_copy_needs_one() -> None:
    found = digits()
    one = sparse_prediction(found.task, *found.pair, layers=["relu1"])["relu1"]
    assert list(one.errors) == sorted(one.errors, reverse=True) and list(one.nonzeros) == sorted(one.nonzeros)
    assert one.held_out[-1] > one.errors[-1]
    copy = sparse_prediction(found.task, found.networks[0], found.networks[0], layers=["relu1"], penalties=[0.01])["relu1"]
    assert copy.values()["error_held_out@0.01"] < 0.001 and copy.nonzeros[0] < 2


def test_clusters_are_found_where_they_were_planted(generator: torch.Generator) -> None:
    causes = torch.randn(300, 3, generator=generator)
    of_x, of_y = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([2, 1, 0, 1])
    x = causes[:, of_x] + 0.3 * torch.randn(300, 6, generator=generator)
    y = causes[:, of_y] + 0.3 * torch.randn(300, 4, generator=generator)
    found = cluster_units(of(x, -y), 3, generator=generator)
    labels = [*found.of_first, *found.of_second]
    planted = [*of_x.tolist(), *of_y.tolist()]
    assert len({*zip(labels, planted, strict=True)}) == 3
    assert sorted(found.sizes) == [(2, 1), (2, 1), (2, 2)] and found.values()["shared"] == 1
    assert found.values()["within"] > 0.8 > 0.3 > found.values()["across"]
    assert isinstance(found.plot(), Figure)


def test_clusters_leave_dead_units_out(generator: torch.Generator) -> None:
    x = torch.randn(50, 5, generator=generator)
    x[:, 3] = 1
    found = cluster_units(of(x, x), 2)
    assert found.of_first[3] == found.of_second[3] == -1 and len(found.adjacency) == 8
    with pytest.raises(AnalysisError, match="expected 2 to 8 clusters of 8 units that vary, found 9; ask for fewer"):
        cluster_units(of(x, x), 9)


def test_messages_and_pictures() -> None:
    with pytest.raises(AnalysisError, match=r"expected units that vary, found none in one of the layers"):
        predict_sparsely(of(torch.ones(5, 2), torch.ones(5, 2)), of(torch.ones(5, 2), torch.ones(5, 2)))
    with pytest.raises(AnalysisError, match=r"expected penalties above 0, found \[0.0\]"):
        predict_sparsely(Moments(), Moments(), [0.0])
    found = digits()
    assert isinstance(convergence(found.task, *found.pair)["fc2"].plot(), Figure)
    assert isinstance(sparse_prediction(found.task, *found.pair, layers=["fc2"])["fc2"].plot(), Figure)
    assert gather(found.task, *found.pair, layers=["fc1"])["fc1"].count == 450


def test_networks_without_a_living_unit_have_a_picture() -> None:
    expect_good(pair_units(torch.full((3, 3), math.nan)).plot(), ink=0.003)
