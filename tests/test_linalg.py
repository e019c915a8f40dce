from collections.abc import Callable, Iterator, Mapping, MutableMapping

import numpy as np
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
    cached_singular_values,
    cached_svd,
    each,
    singular_values,
    svd,
    threads_for,
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
    monkeypatch.setattr(top, "_SMALL", 0)
    monkeypatch.setattr(updating, "_SMALL", 0)


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


def unconverged(*_: object, **__: object) -> None:
    raise torch.linalg.LinAlgError("the algorithm failed to converge")  # type: ignore[attr-defined]


def test_where_divide_and_conquer_fails_qr_iteration_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = drawn(0, 9, 6)
    expected, values, stack = svd(matrix), singular_values(matrix), torch.stack([matrix, 2 * matrix])
    for name in ("svd", "svdvals", "eigvalsh"):
        monkeypatch.setattr(torch.linalg, name, unconverged)
    found = svd(matrix)
    assert torch.allclose(found.s, expected.s, atol=1e-5) and torch.allclose(found.matrix(), matrix, atol=1e-5)
    assert found.u.shape == (9, 6) and found.u.dtype == torch.float32
    assert torch.allclose(svd(stack).matrix(), stack, atol=1e-5)
    for one in (matrix, matrix.double()):
        assert torch.allclose(singular_values(one), values, rtol=1e-6) and singular_values(one).dtype == torch.float64
    assert torch.allclose(singular_values(stack)[1], 2 * values, rtol=1e-6)


@pytest.mark.usefixtures("searching")
def test_a_search_that_fails_is_given_up_for_a_full_decomposition(monkeypatch: pytest.MonkeyPatch) -> None:
    matrix, update = with_values(SPECTRA["power law"], 120, 120), low_rank(1, 120, 120, 2, 1e-3)
    known = svd(matrix)
    expected, moved = top_singular(matrix, 5), updated(known, update, 5)
    assert expected.method == moved.method == "certified"
    monkeypatch.setattr(torch.linalg, "eigh", unconverged)  # of every search
    for found, before in ((top_singular(matrix, 5), expected), (updated(known, update, 5), moved)):
        assert found.method == "exact" and torch.allclose(found.s, before.s, rtol=1e-7)

    def refused(*_: object, **__: object) -> None:
        raise np.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(top, "_SEARCHED", 1000)
    monkeypatch.setattr("scipy.linalg.eigh", refused)
    assert torch.allclose(top_singular(matrix, 5).s, expected.s, rtol=1e-7)


def test_where_nothing_converges_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise np.linalg.LinAlgError("SVD did not converge")

    monkeypatch.setattr(torch.linalg, "svd", unconverged)
    monkeypatch.setattr("scipy.linalg.svd", refused)
    with pytest.raises(AnalysisError, match=r"of a matrix of shape \(3, 4\), found that no method of LAPACK converges on it; leave it out"):
        svd(torch.ones(3, 4))


def test_small_matrices_have_one_thread_and_the_others_theirs() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with threads_for(100):
            assert torch.get_num_threads() == 1
            with threads_for(100):
                pass
            assert torch.get_num_threads() == 1
        with threads_for(4096):
            assert torch.get_num_threads() == 2
        with pytest.raises(AnalysisError), threads_for(100):
            raise AnalysisError("in the middle of it")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


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
        assert found.method == "certified" and found.residual < 2e-7


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


@pytest.mark.parametrize("size", [60, 300])
@pytest.mark.parametrize("large", [1e2, 1e4])
def test_what_an_update_takes_away_leaves_its_rounding_in_the_residual(size: int, large: float) -> None:
    u, v = orthonormal(drawn(1, size, 1)), orthonormal(drawn(2, size, 1))
    base = drawn(0, size, size) / size**0.5 + large * u @ v.T
    found = updated(svd(base), LowRank("weight", -large * v.T, u, 1.0, (size, size)), 10)
    expected = torch.linalg.svdvals(base.double() - large * u.double() @ v.double().T)[:10]
    off_by = float((found.s - expected).abs().max() / expected[0])
    assert off_by < 2 * found.residual < 4e-7 * large


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
    assert len(calls) == 1 and list(cache) == ["hash/svd"]
    assert torch.equal(decompositions[0].u, decompositions[2].u)
    cached_svd("hash", matrix, None)
    cached_svd("other hash", matrix, cache)
    assert len(calls) == 3


def test_values_that_a_cache_lacks_are_taken_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def counted(matrix: Tensor) -> Tensor:
        calls.append(tuple(matrix.shape))
        return singular_values(matrix)

    monkeypatch.setattr("weightspace.linalg.kept.singular_values", counted)
    cache: Cache = {}
    stacks = {"a": drawn(0, 10, 4).reshape(2, 5, 4), "b": drawn(1, 5, 4)[None]}
    first, again = (cached_singular_values(stacks, cache) for _ in range(2))
    assert calls == [(3, 5, 4)] and sorted(cache) == ["a/singular values", "b/singular values"]
    assert torch.equal(first["a"], again["a"]) and torch.equal(first["b"], singular_values(drawn(1, 5, 4)))
    assert torch.equal(first["a"], singular_values(stacks["a"]).flatten().sort(descending=True).values)
    cached_singular_values(stacks, None)
    assert len(calls) == 2


class Evicting(MutableMapping[str, Mapping[str, Tensor]]):
    """A cache that has everything until it is read."""

    def __init__(self) -> None:
        self.given: set[str] = set()

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: str) -> Mapping[str, Tensor]:
        raise KeyError(key)

    def __setitem__(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        self.given.add(key)

    def __delitem__(self, key: str) -> None:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def test_what_a_cache_loses_is_made_again() -> None:
    cache, matrix = Evicting(), drawn(0, 5, 4)
    for _ in range(2):
        assert torch.equal(cached_svd("hash", lambda: matrix, cache).s, svd(matrix).s)
        assert torch.equal(cached_singular_values({"hash": matrix[None]}, cache)["hash"], singular_values(matrix))
    assert cache.given == {"hash/singular values", "hash/svd"}
