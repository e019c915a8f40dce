"""The tables against slow references."""

import math

import pytest
import torch
from torch import nn

from tests.analysis.stitching.reassembly.zoos import INPUTS, empty, mlp, task
from weightspace.analysis.similarity import linear_cka
from weightspace.analysis.stitching import Chain
from weightspace.analysis.stitching.fitting import crossing
from weightspace.analysis.stitching.reassembly.tables import tables_of
from weightspace.errors import AnalysisError


@pytest.fixture(scope="module")
def chains() -> dict[str, Chain]:
    return {"a": mlp(5, 7, seed=1), "b": mlp(9, 4, 6, seed=2)}


def _values(chains: dict[str, Chain], name: str, at: int) -> torch.Tensor:
    return torch.cat([values[at] for values in crossing(chains[name], task().batches, [at])]).double()


def test_cka_is_that_of_the_activations(chains: dict[str, Chain]) -> None:
    tables = tables_of(chains, task(), samples=64)
    assert list(tables.rows) == [("a", 0), ("a", 1), ("b", 0), ("b", 1), ("b", 2)] and tables.samples == 64
    for one, row in tables.rows.items():
        for other, column in tables.rows.items():
            wanted = linear_cka(_values(chains, *one), _values(chains, *other), debiased=True)
            assert float(tables.cka[row, column]) == pytest.approx(wanted, abs=1e-4)


def test_fit_is_the_share_that_ridge_regression_explains_on_examples_left_out(chains: dict[str, Chain]) -> None:
    tables = tables_of(chains, task(), samples=64, ridge=0.1)
    for one, row in tables.rows.items():
        for other, column in tables.rows.items():
            x, y = _values(chains, *one), _values(chains, *other)
            means = x[::2].mean(0), y[::2].mean(0)
            taken, wanted = x[::2] - means[0], y[::2] - means[1]
            shrink = 0.1 * taken.square().sum(1).mean() * torch.eye(x.shape[1], dtype=torch.float64)
            weight = torch.linalg.solve(taken.T @ taken + shrink, taken.T @ wanted)
            left = y[1::2] - means[1]
            error = (left - (x[1::2] - means[0]) @ weight).square().sum()
            assert float(tables.fit[row, column]) == pytest.approx(float(1 - error / left.square().sum()), abs=1e-4)


def test_batches_make_no_difference(chains: dict[str, Chain]) -> None:
    one, other = (tables_of(chains, task(batch_size=size), samples=50) for size in (64, 7))
    assert one.samples == other.samples == 50
    assert torch.allclose(one.cka, other.cka, atol=1e-5) and torch.allclose(one.fit, other.fit, atol=1e-4)


def test_what_does_not_vary_is_not_defined(chains: dict[str, Chain]) -> None:
    still = mlp(4, 4)
    with torch.no_grad():
        for parameter in still.parts[0].parameters():
            parameter.zero_()
    tables = tables_of({"a": chains["a"], "still": still}, task())
    row = tables.rows["still", 0]
    assert bool(tables.cka[row].isnan().all()) and bool(tables.fit[:, row].isnan().all())
    assert float(tables.fit[row, 0]) <= 1e-6  # nothing explains nothing


def test_values_that_are_not_finite_are_refused() -> None:
    broken = mlp(4, 4)
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    with pytest.raises(AnalysisError, match="found NaN or infinite ones in network broken, cut '0'"):
        tables_of({"broken": broken}, task())


def test_too_few_examples_are_refused(chains: dict[str, Chain]) -> None:
    with pytest.raises(AnalysisError, match="expected 8 examples or more to compare networks on, found 7"):
        tables_of(chains, task(examples=7))
    with pytest.raises(AnalysisError, match="found 0"):
        tables_of(chains, empty())


def test_progress_is_told_of_every_network(chains: dict[str, Chain]) -> None:
    told: list[tuple[int, int]] = []
    tables_of(chains, task(), progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def test_each_unit_at_each_place_is_a_feature() -> None:
    chain = Chain.of_blocks({"map": nn.Unflatten(1, (2, INPUTS // 2)), "end": nn.Flatten()}, torch.zeros(2, INPUTS))
    flat = Chain.of_blocks({"same": nn.Identity(), "end": nn.Identity()}, torch.zeros(2, INPUTS))
    tables = tables_of({"map": chain, "flat": flat}, task())
    assert float(tables.cka[0, 1]) == pytest.approx(1, abs=1e-5)
