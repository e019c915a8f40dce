"""Linear assignment: every solver finds a best assignment, whatever the costs look like, and says what it cannot take."""

import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from weightspace.analysis.matching import assignment, compiled, sparse_core
from weightspace.analysis.matching.assignment import CHOICE, CORE_FROM, SOLVERS, assign
from weightspace.errors import MissingDependencyError, ShapeMismatchError, SymmetryError, UnknownNameError

Costs = npt.NDArray[np.floating]
FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O3", "-ffinite-math-only", "-fno-signed-zeros", "-shared", "-fPIC"]


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the kernel compiled from the source as it is now."""
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("no C compiler to build the assignment kernel with")
    folder = tmp_path_factory.mktemp("kernel")
    subprocess.run([compiler, *FLAGS, str(compiled.FOLDER / "_lapjv.c"), "-o", str(folder / "_lapjv.so")], check=True)
    return folder


@contextmanager
def built_in(folder: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compiled, "FOLDER", folder)
        yield


def normal(n: int, chance: np.random.Generator) -> Costs:
    return chance.standard_normal((n, n))


def whole_numbers(n: int, chance: np.random.Generator) -> Costs:
    return chance.integers(0, 3, (n, n)).astype(float)


def all_equal(n: int, chance: np.random.Generator) -> Costs:
    return np.full((n, n), chance.standard_normal())


def near_duplicates(n: int, chance: np.random.Generator) -> Costs:
    rows = np.repeat(chance.standard_normal((n // 4 + 1, n)), 4, axis=0)[:n]
    return rows + 1e-7 * chance.standard_normal((n, n))


def low_rank(n: int, chance: np.random.Generator) -> Costs:
    return chance.standard_normal((n, 2)) @ chance.standard_normal((2, n))


def correlations(n: int, chance: np.random.Generator) -> Costs:
    hidden = np.maximum(chance.standard_normal((2 * n, 8)) @ chance.standard_normal((8, 60)), 0)
    table: Costs = np.nan_to_num(np.corrcoef(hidden)[:n, n:])
    return table


def planted(n: int, chance: np.random.Generator) -> Costs:
    rows = chance.standard_normal((n, 30))
    return rows @ (rows[chance.permutation(n)] + 0.5 * chance.standard_normal((n, 30))).T


def products(n: int, chance: np.random.Generator) -> Costs:
    """The costs of Machol and Wien, on which shortest paths are as long as they can be."""
    return -np.outer(np.arange(1, n + 1), np.arange(1, n + 1)) * float(chance.choice([-1, 1]))


def dead_units(n: int, chance: np.random.Generator) -> Costs:
    cost = chance.standard_normal((n, n))
    cost[chance.random(n) < 0.5] = 0
    cost[:, chance.random(n) < 0.5] = 0
    return cost


def steep_columns(n: int, chance: np.random.Generator) -> Costs:
    return chance.standard_normal((n, n)) + 100 * chance.standard_normal(n)


KINDS: list[Callable[[int, np.random.Generator], Costs]] = [
    normal,
    whole_numbers,
    all_equal,
    near_duplicates,
    low_rank,
    correlations,
    planted,
    products,
    dead_units,
    steep_columns,
]


def check(cost: Costs, index: npt.NDArray[np.int64], maximise: bool, relative: float) -> None:
    """The index is a permutation that is worth as much as the one which scipy's dense solver finds."""
    rows = np.arange(len(cost))
    assert sorted(index.tolist()) == rows.tolist()
    best = cost[rows, linear_sum_assignment(cost, maximize=maximise)[1]].sum()
    assert abs(cost[rows, index].sum() - best) <= relative * (np.abs(cost).max() * len(cost))


drawn = given(kind=st.sampled_from(KINDS), n=st.integers(1, 70), seed=st.integers(0, 2**32 - 1), maximise=st.booleans())


@drawn
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_compiled_kernel_finds_the_best_for_all_kinds_of_costs(
    kernel: Path, kind: Callable[[int, np.random.Generator], Costs], n: int, seed: int, maximise: bool
) -> None:
    cost = kind(n, np.random.default_rng(seed)).astype(np.float32)
    with built_in(kernel):
        index = assign(torch.from_numpy(cost), maximise=maximise, solver="lapjv")
    check(cost.astype(float), index.numpy(), maximise, 1e-12)  # exact for the costs as float32: only the sum is rounded


@drawn
@settings(max_examples=150, deadline=None)
def test_a_sparse_core_is_proved_best_or_left_to_the_dense_solver(
    kind: Callable[[int, np.random.Generator], Costs], n: int, seed: int, maximise: bool
) -> None:
    cost = kind(n + 40, np.random.default_rng(seed)) * (-1 if maximise else 1)
    for precise in (cost, cost.astype(np.float32)):
        found = sparse_core.solve_core(precise)
        if found is not None:
            check(precise.astype(float), found, False, 1e-11)


def test_a_core_too_thin_grows_until_it_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sparse_core, "PER_ROW", 4)
    monkeypatch.setattr(sparse_core, "UNSOLD", 0.2)
    looked: list[int] = []
    better = sparse_core._better_outside

    def counted(*given: object) -> object:
        found = better(*given)  # type: ignore[arg-type]
        looked.append(len(found[0]))
        return found

    monkeypatch.setattr(sparse_core, "_better_outside", counted)
    solved = 0
    for seed in range(10):
        cost = normal(150, np.random.default_rng(seed))
        found = sparse_core.solve_core(cost)
        if found is not None:
            solved += 1
            check(cost, found, False, 1e-11)
    assert solved and any(looked), "the core was never too thin, so that nothing was tested"


@pytest.mark.parametrize("kind", [normal, planted, correlations, steep_columns, all_equal, low_rank, dead_units])
def test_large_problems_are_solved_exactly_by_default(kind: Callable[[int, np.random.Generator], Costs]) -> None:
    cost = kind(CORE_FROM + 8, np.random.default_rng(1)).astype(np.float32)
    check(cost.astype(float), assign(torch.from_numpy(cost)).numpy(), True, 1e-11)


def test_large_problems_of_matching_use_the_core() -> None:
    for kind in (normal, planted):
        assert sparse_core.solve_core(kind(CORE_FROM, np.random.default_rng(2)).astype(np.float32)) is not None


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (1, 4), (4, 1), (1, 1)])
@pytest.mark.parametrize("maximise", [True, False])
def test_small_problems_agree_with_trying_everything(kernel: Path, solver: str, shape: tuple[int, int], maximise: bool) -> None:
    rows, columns = shape
    chance = np.random.default_rng(rows * 10 + columns)
    for scale in (1.0, 1e-38, 1e38):
        cost = torch.from_numpy((chance.standard_normal(shape) * scale).astype(np.float32))
        values = cost.double() if rows <= columns else cost.double().T
        every = [sum(float(values[i, j]) for i, j in enumerate(way)) for way in itertools.permutations(range(max(shape)), min(shape))]
        with built_in(kernel):
            index = assign(cost, maximise=maximise, solver=solver)
        taken = [(i, int(j)) for i, j in enumerate(index) if j >= 0]
        assert len(taken) == min(shape) == len({j for _, j in taken})
        worth = sum(float(cost[i, j]) for i, j in taken)
        assert worth == pytest.approx(max(every) if maximise else min(every), rel=1e-5)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("shape", [(60, 300), (300, 60)])
def test_wide_and_tall_problems_are_solved_exactly(kernel: Path, solver: str, shape: tuple[int, int]) -> None:
    cost = torch.from_numpy(np.random.default_rng(3).standard_normal(shape).astype(np.float32))
    with built_in(kernel):
        index = assign(cost, solver=solver)
    i, j = linear_sum_assignment(cost.double().numpy(), maximize=True)
    expected = torch.full((shape[0],), -1)
    expected[torch.from_numpy(i)] = torch.from_numpy(j)
    assert torch.equal(index, expected)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_batch_is_solved_one_by_one_and_the_layout_does_not_matter(kernel: Path, solver: str) -> None:
    cost = torch.randn(2, 3, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with built_in(kernel):
        together = assign(cost, solver=solver)
        assert together.shape == (2, 3, 7) and together.dtype == torch.int64
        for i, j in itertools.product(range(2), range(3)):
            assert torch.equal(together[i, j], assign(cost[i, j], solver=solver))
        assert torch.equal(assign(cost.mT, solver=solver), together.argsort(-1))
        assert torch.equal(assign(torch.eye(5, dtype=torch.bfloat16).flip(0), solver=solver), torch.arange(5).flip(0))
        assert assign(torch.zeros(0, 0), solver=solver).tolist() == []
        assert assign(torch.zeros(2, 0), solver=solver).tolist() == [-1, -1]


def test_costs_of_any_size_keep_their_order_in_the_compiled_kernel(kernel: Path) -> None:
    cost = torch.randn(40, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with built_in(kernel):
        plain = assign(cost, solver="lapjv")
        for scale in (1e-300, 1e-42, 1e42, 1e300):
            assert torch.equal(assign(cost * scale, solver="lapjv"), plain)


def test_costs_that_cannot_be_assigned_are_refused() -> None:
    for bad in (float("nan"), float("inf"), -float("inf")):
        cost = torch.zeros(3, 3)
        cost[1, 2] = bad
        with pytest.raises(SymmetryError, match="an assignment needs finite costs, but there is a NaN or an infinity among these"):
            assign(cost)
    with pytest.raises(ShapeMismatchError, match=r"an assignment needs a cost of shape \(rows, columns\), not \[3\]; add the missing axis"):
        assign(torch.zeros(3))
    with pytest.raises(UnknownNameError, match=r"no assignment solver named 'lapvj'; did you mean 'lapjv'\? \(known: scipy, lapjv\)"):
        assign(torch.zeros(3, 3), solver="lapvj")


def test_without_the_kernel_only_who_asks_for_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with built_in(tmp_path):
        assert not compiled.is_compiled()
        assert assign(torch.eye(3)).tolist() == [0, 1, 2]
        monkeypatch.setenv(CHOICE, "lapjv")
        with pytest.raises(MissingDependencyError, match="solver 'lapjv' needs a kernel that was not built with this install"):
            assign(torch.eye(3))
        assert assign(torch.eye(3), solver="scipy").tolist() == [0, 1, 2]


def test_the_environment_names_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def spy(name: str) -> Callable[[Costs, bool], npt.NDArray[np.int64]]:
        def solve(cost: Costs, maximise: bool) -> npt.NDArray[np.int64]:
            called.append(name)
            return np.arange(len(cost))

        return solve

    monkeypatch.setattr(assignment, "SOLVERS", {name: spy(name) for name in SOLVERS})
    assign(torch.eye(3))
    monkeypatch.setenv(CHOICE, "lapjv")
    assign(torch.eye(3))
    assign(torch.eye(3), solver="scipy")
    assert called == ["scipy", "lapjv", "scipy"]


def test_the_compiled_kernel_is_what_lapjv_runs(kernel: Path) -> None:
    cost = torch.randn(30, 30, generator=torch.Generator().manual_seed(2))
    with built_in(kernel):
        assert compiled.is_compiled()
        assert torch.equal(assign(cost, solver="lapjv"), assign(cost, solver="scipy"))
