from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weightspace.adapters import LowRank
from weightspace.errors import AnalysisError
from weightspace.linalg import (
    Cache,
    Singular,
    Sum,
    cached_singular_values,
    cached_svd,
    each,
    singular_values,
    svd,
    top,
    top_singular,
    updated,
    updating,
)
from weightspace.linalg.krylov import krylov, orthonormal, random_start
from weightspace.linalg.singular import finite, gram

seeds = st.integers(0, 10**6)
lengths = st.integers(1, 40)


def drawn(seed: int, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def with_values(values: Tensor, rows: int, columns: int, seed: int = 0) -> Tensor:
    """A float64 matrix with these singular values."""
    size = len(values)
    left, right = (orthonormal(drawn(seed + at, length, size).double()) for at, length in enumerate((rows, columns)))
    return (left * values.double()) @ right.T


def low_rank(seed: int, rows: int, columns: int, rank: int, scale: float = 1.0) -> LowRank:
    return LowRank("weight", drawn(seed, rank, columns), drawn(seed + 1, rows, rank), scale, (rows, columns))


def off(found: Singular, matrix: Tensor) -> float:
    """The largest residual of the triplets, and how far from orthonormal the vectors are."""
    matrix, u, v = matrix.double(), found.u.double(), found.v.double()
    eye = torch.eye(len(found.s), dtype=torch.float64)
    parts = (matrix @ v - u * found.s, matrix.T @ u - v * found.s)
    scale = float(found.s[0])
    return max(float(part.abs().max()) / scale for part in parts) + max(float((one.T @ one - eye).abs().max()) for one in (u, v))


@given(seeds, lengths, lengths)
def test_a_decomposition_multiplies_back_to_its_matrix(seed: int, rows: int, columns: int) -> None:
    matrix = drawn(seed, rows, columns)
    found = svd(matrix)
    assert torch.allclose(found.matrix(), matrix, atol=1e-4)
    assert found.method == "exact" and found.u.shape == (rows, min(rows, columns)) and found.v.shape == (columns, min(rows, columns))
    assert torch.allclose(found.transposed.matrix(), matrix.T, atol=1e-4)


@given(seeds, lengths, lengths)
def test_values_alone_are_those_of_a_float64_decomposition(seed: int, rows: int, columns: int) -> None:
    matrix = drawn(seed, rows, columns)
    expected = torch.linalg.svdvals(matrix.double())
    found = singular_values(matrix)
    assert found.dtype == torch.float64
    assert float((found - expected).abs().max() / expected[0]) < 3e-8
    assert torch.allclose(singular_values(matrix.double()), expected, rtol=1e-12)


def test_a_large_gram_matrix_is_the_product_on_both_sides() -> None:
    matrix = drawn(0, 700, 900).double()
    assert torch.allclose(gram(matrix), matrix @ matrix.T)
    assert torch.allclose(gram(matrix.T), matrix @ matrix.T)


def test_a_stack_is_decomposed_as_its_matrices_are() -> None:
    stack = torch.stack([drawn(seed, 6, 4) for seed in range(3)])
    together = svd(stack)
    assert torch.allclose(together.matrix(), stack, atol=1e-5)
    assert torch.allclose(together.first(2).s, torch.stack([svd(one).s[:2] for one in stack]), atol=1e-5)
    assert torch.allclose(singular_values(stack), torch.stack([singular_values(one) for one in stack]))
    assert together.gaps.shape == (3, 4)


def test_each_keeps_the_order_and_calls_once_for_a_shape() -> None:
    calls: list[tuple[int, ...]] = []

    def counted(matrix: Tensor) -> Tensor:
        calls.append(tuple(matrix.shape))
        return singular_values(matrix)

    matrices = [drawn(0, 3, 4), drawn(1, 5, 2), drawn(2, 3, 4)]
    found = each(counted, matrices)
    assert calls == [(2, 3, 4), (1, 5, 2)]
    assert all(torch.allclose(one, singular_values(matrix)) for one, matrix in zip(found, matrices, strict=True))
    assert all(torch.allclose(one.matrix(), matrix, atol=1e-5) for one, matrix in zip(each(svd, matrices), matrices, strict=True))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2])
def test_narrow_dtypes_are_widened_first(dtype: torch.dtype) -> None:
    narrow = drawn(0, 12, 9).to(dtype)
    for found in (svd(narrow), top_singular(narrow, 3)):
        assert found.s.dtype == torch.float32
        assert torch.allclose(found.s, svd(narrow.float()).s[: len(found.s)])
    assert torch.allclose(singular_values(narrow), singular_values(narrow.float()))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("function", [svd, singular_values, lambda matrix: top_singular(matrix, 2)])
def test_a_matrix_that_is_not_finite_is_refused(bad: float, function: Callable[[Tensor], object]) -> None:
    matrix = torch.ones(3, 4)
    matrix[1, 2] = bad
    with pytest.raises(AnalysisError, match=r"found 1 NaN or infinite of 12 in a matrix of shape \(3, 4\); leave it out"):
        function(matrix)


def test_large_numbers_whose_sum_overflows_are_finite() -> None:
    assert float(singular_values(torch.full((2, 2), 3e38))[0]) == pytest.approx(6e38)


@pytest.mark.usefixtures("searching")
@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_squares_neither_overflow_nor_vanish(scale: float) -> None:
    matrix = with_values(SPECTRA["power law"], 120, 120)
    found, expected = top_singular(matrix * scale, 4), top_singular(matrix, 4)
    assert found.method == "certified" and torch.allclose(found.s / scale, expected.s)
    assert found.following / scale == pytest.approx(expected.following)


def test_parameters_are_taken_as_tensors() -> None:
    weight = torch.nn.Parameter(drawn(0, 5, 4))
    for found in (svd(weight), top_singular(weight, 2)):
        assert not found.u.requires_grad


def test_integers_are_refused() -> None:
    with pytest.raises(AnalysisError, match=r"floating-point numbers, found torch.int64; convert it first"):
        finite(torch.ones(2, 2, dtype=torch.long))


def test_no_vector_at_all_is_refused() -> None:
    with pytest.raises(AnalysisError, match="at least 1 singular vector to find, found k=0"):
        top_singular(torch.eye(3), 0)
    with pytest.raises(AnalysisError, match="at least 1 singular vector to find, found k=0"):
        updated(svd(torch.eye(3)), low_rank(0, 3, 3, 1), 0)


def test_degenerate_matrices_have_defined_triplets() -> None:
    zero = top_singular(torch.zeros(300, 300), 4)
    assert zero.s.tolist() == [0.0] * 4 and torch.allclose(zero.u.T @ zero.u, torch.eye(4))
    assert zero.gaps.tolist() == [0.0] * 4
    row = top_singular(torch.tensor([[3.0, 4.0]]), 10)
    assert row.s.tolist() == pytest.approx([5.0]) and row.v.abs().flatten().tolist() == pytest.approx([0.6, 0.8])
    assert svd(torch.empty(0, 5)).s.shape == singular_values(torch.empty(0, 5)).shape == (0,)
    assert top_singular(torch.empty(5, 0), 2).u.shape == (5, 0)
    assert singular_values(torch.zeros(3, 2)).tolist() == [0.0, 0.0]


def test_gaps_are_to_the_nearest_neighbour_and_to_what_was_left_out() -> None:
    found = svd(torch.diag(torch.tensor([10.0, 9.0, 5.0, 4.5]))).first(3)
    assert found.following == 4.5
    assert found.gaps.tolist() == pytest.approx([0.1, 0.1, 0.05])


at = torch.arange(1, 121).double()
SPECTRA = {
    "power law": at**-0.5,
    "slowly decaying bulk": 1 - at / 1000,
    "cluster at the end of the top": torch.where(at < 9, 20 - at, torch.where(at < 14, 5 - 1e-9 * at, 1 / at)),
    "repeated": torch.where(at < 4, 3.0, torch.where(at < 12, 2.0, 1 / at)),
    "all equal": torch.ones_like(at),
    "rank 5": torch.where(at < 6, 6 - at, 0.0),
    "one giant": torch.where(at == 1, 1e4, 1 - at / 1000),
    "down to 1e-8": 10 ** (-8 * at / 120),
}


@pytest.fixture
def searching(monkeypatch: pytest.MonkeyPatch) -> None:
    """Search in small matrices, too, where it takes longer than a decomposition."""
    monkeypatch.setattr(top, "_SEARCHED", 0)
    monkeypatch.setattr(top, "SMALL", 0)
    monkeypatch.setattr(updating, "SMALL", 0)


@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("shape", [(120, 120), (150, 120), (120, 150)])
@pytest.mark.usefixtures("searching")
def test_the_top_few_are_the_top_few_whatever_the_spectrum(spectrum: str, shape: tuple[int, int]) -> None:
    values = SPECTRA[spectrum]
    matrix = with_values(values, *shape)
    for k in (1, 5, 10):
        found = top_singular(matrix, k)
        assert float((found.s - values[:k]).abs().max() / values[0]) < 1e-9, found.method
        assert off(found, matrix) < 1e-6
        assert float((values[k] - found.following).abs()) <= 0.1 * float(values[k - 1] - values[k]) + 1e-7 * float(values[0])


@pytest.mark.usefixtures("searching")
@settings(max_examples=25)
@given(seeds, st.lists(st.sampled_from([0.0, 1.0, 1.0 + 1e-12, 1.0 - 1e-7, 0.99, 0.5, 2.0]), min_size=12, max_size=50))
def test_what_is_certified_is_right_for_any_clusters(seed: int, heads: list[float]) -> None:
    values = (
        torch.cat([torch.tensor(heads, dtype=torch.float64), torch.linspace(0.9, 0.1, 90, dtype=torch.float64)])
        .sort(descending=True)
        .values
    )
    found = top_singular(with_values(values, 160, 150, seed), 10)
    assert float((found.s - values[:10]).abs().max()) < 1e-9


@pytest.mark.usefixtures("searching")
def test_spectra_with_gaps_are_certified_and_flat_ones_are_not() -> None:
    assert top_singular(with_values(SPECTRA["power law"], 120, 120), 10).method == "certified"
    assert top_singular(with_values(SPECTRA["all equal"], 120, 120), 10).method == "exact"
    assert top_singular(with_values(SPECTRA["rank 5"], 120, 120), 10).method == "exact"


@pytest.mark.usefixtures("searching")
def test_a_value_that_the_search_cannot_see_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 260
    start = random_start(size, torch.empty(0, dtype=torch.float64), None)
    hidden = torch.zeros(size, dtype=torch.float64)
    hidden[:20] = torch.linalg.svd(start[:20].T).Vh[-1]  # orthogonal to the whole start, on coordinates that it has alone
    rest = torch.diag(torch.cat([torch.zeros(20), 1.0 / torch.arange(1, size - 19)])).double()
    matrix = rest + 0.35 * torch.outer(hidden, hidden)
    blind = rest @ rest / matrix.square().sum()
    assert top_singular(matrix, 3).s.tolist() == pytest.approx([1.0, 0.5, 0.35])
    monkeypatch.setattr(top, "krylov", lambda *_, **__: krylov(lambda block: blind @ block, start, 3, columns=160, least=0.0))
    found = top_singular(matrix, 3)  # the search is blind to the hidden vector now
    assert found.method == "exact" and found.s.tolist() == pytest.approx([1.0, 0.5, 0.35])
    monkeypatch.setattr(top, "_is_all", lambda *_: True)
    assert top_singular(matrix, 3).s.tolist() == pytest.approx([1.0, 0.5, 1 / 3])  # so it is the certificate that noticed


@pytest.mark.usefixtures("searching")
def test_the_start_of_the_search_makes_no_difference(generator: torch.Generator) -> None:
    matrix = with_values(torch.arange(1, 401) ** -0.5, 400, 400).float()
    found = top_singular(matrix, 10, generator=generator)
    assert found.method == "certified" and found.residual < 1e-10 and found.u.dtype == torch.float32
    assert torch.allclose(found.s, torch.arange(1, 11).float() ** -0.5, atol=1e-6)
    assert off(found, matrix) < 1e-5
    assert torch.equal(top_singular(matrix, 10).s, top_singular(matrix, 10).s)


def test_a_sum_is_searched_by_products_and_says_that_nothing_is_proved() -> None:
    base, update = with_values(SPECTRA["power law"], 120, 150).float(), low_rank(3, 120, 150, 4, 1e-2)
    together = Sum(base, update)
    vectors = drawn(9, 150, 2)
    assert torch.allclose(together @ vectors, (base + update.matrix()) @ vectors, atol=1e-5)
    assert torch.allclose(together.T @ (together @ vectors), (base + update.matrix()).T @ ((base + update.matrix()) @ vectors), atol=1e-4)
    expected = svd(base + update.matrix()).s[:5]
    loose, proved = top_singular(together, 5, certify=False), top_singular(together, 5)
    assert loose.method == "uncertified" and proved.method in ("certified", "exact")
    assert torch.allclose(loose.s, expected, atol=1e-5) and torch.allclose(proved.s, expected, atol=1e-5)
    assert torch.allclose(top_singular(base.T, 5, certify=False).s, svd(base).s[:5], atol=1e-5)
    assert top_singular(torch.ones(2, 3), 5, certify=False).s[0] == pytest.approx(6**0.5)


SHAPES = [(100, 100), (140, 90), (90, 140), (30, 50), (9, 4), (1, 6)]


@pytest.mark.usefixtures("searching")
@settings(max_examples=60)
@given(
    seeds,
    st.sampled_from(SHAPES),
    st.sampled_from([0, 1, 3, 8, 40]),
    st.sampled_from([0.0, 1e-4, 0.03, 1.0, 100.0]),
    st.sampled_from(["gaussian", *SPECTRA]),
)
def test_an_updated_decomposition_is_that_of_the_sum(seed: int, shape: tuple[int, int], rank: int, scale: float, spectrum: str) -> None:
    size = min(shape)
    base = drawn(seed, *shape) if spectrum == "gaussian" else with_values(SPECTRA[spectrum][:size], *shape, seed).float()
    update = low_rank(seed + 5, *shape, rank, scale)
    known, expected = svd(base), torch.linalg.svdvals(base.double() + update.matrix().double())
    found = updated(known, update, 10)
    count = min(10, size)
    assert len(found.s) == count
    assert float((found.s - expected[:count]).abs().max() / expected[0]) < 3e-6
    assert off(found, base + update.matrix()) < 3e-5
    assert found.left is not None and torch.allclose(found.left, known.u.T @ found.u, atol=1e-5)
    assert found.right is not None and torch.allclose(found.right, known.v.T @ found.v, atol=1e-5)
    if count < size:
        assert found.following == pytest.approx(float(expected[count]), abs=1e-4 * float(expected[0]))


def test_an_update_of_a_large_base_is_certified() -> None:
    base = svd(drawn(0, 300, 260))
    for scale in (1e-3, 0.1, 1.0):
        found = updated(base, low_rank(1, 300, 260, 8, scale), 10)
        assert found.method == "certified" and found.residual < 1e-8


@pytest.mark.usefixtures("searching")
def test_an_updated_decomposition_notices_what_its_search_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    base, update = svd(with_values(SPECTRA["power law"], 120, 120).float()), low_rank(1, 120, 120, 2, 1e-3)
    expected = torch.linalg.svdvals(base.matrix() + update.matrix())[:5]
    search, is_counted = updating._vectors, True

    def forgetful(inertia: updating._Inertia, k: int) -> Tensor | None:
        found = search(inertia, k + 1)
        if not is_counted:
            monkeypatch.setattr(updating._Inertia, "above", lambda *_: k)
        return None if found is None else found[:, [0, 1, *range(3, found.shape[1])]]

    monkeypatch.setattr(updating, "_vectors", forgetful)
    found = updated(base, update, 5)
    assert torch.allclose(found.s, expected, atol=1e-5)
    is_counted = False
    assert not torch.allclose(updated(base, update, 5).s, expected, atol=1e-3)


@given(seeds, st.sampled_from([(20, 20), (26, 18), (18, 26)]), st.integers(1, 4))
def test_inertia_counts_the_values_of_the_sum(seed: int, shape: tuple[int, int], rank: int) -> None:
    base, update = svd(drawn(seed, *shape).double()), low_rank(seed + 3, *shape, rank)
    squares = torch.linalg.svdvals(base.matrix() + update.matrix().double()).square()
    inertia = updating._Inertia(updating._core(base, update))
    for bound in (squares[:-1] + squares[1:]) / 2:
        assert inertia.above(float(bound)) == int((squares > bound).sum())


def test_an_update_that_does_not_fit_is_refused() -> None:
    base = svd(drawn(0, 4, 6))
    with pytest.raises(AnalysisError, match=r"update of shape \(4, 6\) as its base has, found \(4, 5\) for 'weight'; check which base"):
        updated(base, low_rank(0, 4, 5, 1), 2)
    with pytest.raises(
        AnalysisError, match=r"expected all 4 singular triplets of one base of shape \(4, 6\), found \(2,\); take svd\(base\)"
    ):
        updated(base.first(2), low_rank(0, 4, 6, 1), 2)
    plain = low_rank(0, 4, 6, 1)
    with pytest.raises(AnalysisError, match=r"'weight' sets magnitudes, so it is not of low rank; take top_singular"):
        updated(base, LowRank("weight", plain.a, plain.b, 1.0, (4, 6), torch.ones(4, 1)), 2)
    with pytest.raises(AnalysisError, match="NaN or infinite"):
        updated(base, LowRank("weight", plain.a * float("nan"), plain.b, 1.0, (4, 6)), 2)


def test_a_base_is_decomposed_once_for_all_that_came_of_it() -> None:
    cache: Cache = {}
    calls: list[int] = []

    def matrix() -> Tensor:
        calls.append(1)
        return drawn(0, 5, 4)

    decompositions = [cached_svd("hash", matrix, cache) for _ in range(3)]
    values = [cached_singular_values("hash", matrix, cache) for _ in range(3)]
    assert len(calls) == 2 and sorted(cache) == ["hash/singular values", "hash/svd"]
    assert torch.equal(decompositions[0].u, decompositions[2].u) and torch.equal(values[0], values[2])
    cached_svd("hash", matrix, None)
    cached_svd("other hash", matrix, cache)
    assert len(calls) == 4
