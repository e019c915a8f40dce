import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weightspace.adapters import LowRank
from weightspace.analysis.intruders.counting import Overlap, overlap_of
from weightspace.errors import AnalysisError
from weightspace.linalg import svd

SHAPES = [(40, 40), (64, 30), (30, 64), (1, 8), (8, 1)]


def matrix(seed: int, rows: int, columns: int) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def adapter(seed: int, rows: int, columns: int, rank: int, scale: float) -> LowRank:
    return LowRank("weight", matrix(seed, rank, columns), matrix(seed + 1, rows, rank), scale, (rows, columns))


def definition(base: Tensor, tuned: Tensor, k: int, side: str) -> Tensor:
    """The paper's, carried out in full."""
    before, after = (torch.linalg.svd(one, full_matrices=False) for one in (base, tuned))
    product = after.U.T @ before.U if side == "left" else after.Vh @ before.Vh.T
    similarities: Tensor = product.abs().max(dim=1).values
    return similarities[:k]


def counts_agree(overlap: Overlap, base: Tensor, tuned: Tensor, k: int, epsilon: float) -> bool:
    return all(overlap.count(epsilon, side=side) == int((definition(base, tuned, k, side) < epsilon).sum()) for side in ("left", "right"))


@settings(max_examples=60)
@given(
    st.integers(0, 10**6),
    st.sampled_from(SHAPES),
    st.sampled_from([1, 2, 7]),
    st.sampled_from([0.0, 1e-3, 0.1, 0.5, 5.0]),
    st.sampled_from([1, 4, 10]),
    st.sampled_from([0.3, 0.5, 0.9]),
)
def test_counts_are_those_of_the_definition(seed: int, shape: tuple[int, int], rank: int, scale: float, k: int, epsilon: float) -> None:
    base, update = matrix(seed, *shape), adapter(seed + 2, *shape, rank, scale)
    tuned = update.applied_to(base)
    assert counts_agree(overlap_of(base, update, k, epsilon=epsilon), base, tuned, k, epsilon)
    assert counts_agree(overlap_of(base, tuned, k, epsilon=epsilon), base, tuned, k, epsilon)


@pytest.mark.parametrize(
    "values",
    [torch.ones(60), torch.cat([torch.full((30,), 2.0), torch.linspace(1, 0.1, 30)]), torch.ones(60).where(torch.arange(60) < 12, 0)],
)
@pytest.mark.parametrize("scale", [1e-4, 0.02, 1.0])
def test_counts_in_degenerate_bands_are_those_of_the_definition_and_are_said_to_be_chance(values: Tensor, scale: float) -> None:
    left, right = (torch.linalg.qr(matrix(seed, 60, 60)).Q for seed in (0, 1))
    base, update = (left * values) @ right.T, adapter(2, 60, 60, 2, scale)
    overlap = overlap_of(base, update)
    assert counts_agree(overlap, base, update.applied_to(base), 10, 0.5)
    assert overlap.tuned.method == "exact" and not overlap.is_determined().all()


@given(st.integers(0, 10**6), st.sampled_from([(40, 40), (64, 30), (30, 64)]), st.sampled_from([0.01, 0.1, 0.5]))
def test_what_float32_gives_lies_between_the_bounds(seed: int, shape: tuple[int, int], scale: float) -> None:
    base, update = matrix(seed, *shape), adapter(seed + 2, *shape, 3, scale)
    found = overlap_of(base, update, epsilon=None)
    for side, low, high in (("left", found.low_left, found.high_left), ("right", found.low_right, found.high_right)):
        given_ = definition(base, update.applied_to(base), 10, side)
        assert bool((low <= given_).all()) and bool((given_ <= high).all())
        assert float((high - low).median()) < 0.05


def test_a_planted_intruder_is_found_on_both_sides_with_what_it_is_like() -> None:
    base = torch.diag(torch.arange(40.0, 0.0, -1.0))
    one, other = torch.ones(40) / 40**0.5, matrix(0, 40, 1)[:, 0]
    update = LowRank("weight", (other / other.norm())[None], one[:, None], 200.0, (40, 40))
    found = overlap_of(base, update, 3)
    assert found.count() == found.count(side="right") == 1
    assert found.intruders().tolist() == [True, False, False]
    assert found.tuned.s[0] > 150 and found.left[0] == pytest.approx(40**-0.5, abs=0.1)
    assert found.best_left[1:].tolist() == found.best_right[1:].tolist() == [0, 1]
    assert found.margins().tolist() == pytest.approx([abs(float(one) - 0.5) for one in found.left])
    assert found.is_determined().all() and found.is_determined(side="right").all()


def test_at_the_threshold_the_definition_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    base, update = matrix(0, 50, 50), adapter(1, 50, 50, 2, 0.3)
    at = float(overlap_of(base, update, 5, epsilon=None).left[0])
    found = overlap_of(base, update, 5, epsilon=at)
    assert not found.is_determined(at)[0] and counts_agree(found, base, update.applied_to(base), 5, at)
    assert found.is_determined(at + 0.01)[0] and found.is_determined(at - 0.01)[0]


def test_an_unchanged_matrix_has_no_intruders() -> None:
    base = matrix(0, 30, 20)
    for tuned in (base, adapter(1, 30, 20, 2, 0.0)):
        assert overlap_of(base, tuned).left.tolist() == pytest.approx([1.0] * 10, abs=1e-5)


def test_magnitudes_are_not_of_low_rank_and_are_written_out() -> None:
    base, plain = matrix(0, 30, 20), adapter(1, 30, 20, 2, 0.1)
    update = LowRank("weight", plain.a, plain.b, 0.1, (30, 20), torch.linspace(0.5, 9, 30)[:, None])
    assert counts_agree(overlap_of(base, update), base, update.applied_to(base), 10, 0.5)


def test_a_known_decomposition_of_the_base_is_used() -> None:
    base, update = matrix(0, 30, 20), adapter(1, 30, 20, 2, 0.1)
    known = svd(base)
    assert torch.equal(overlap_of(base, update, base_svd=known).left, overlap_of(base, update).left)


def test_what_does_not_fit_is_refused() -> None:
    base = matrix(0, 6, 4)
    for tuned in (matrix(0, 6, 5), adapter(0, 6, 5, 1, 1.0)):
        with pytest.raises(
            AnalysisError, match=r"tuned matrix of shape \(6, 4\) as its base has, found \(6, 5\); check that one came of the other"
        ):
            overlap_of(base, tuned)
    with pytest.raises(AnalysisError, match="1 NaN or infinite of 24"):
        broken = base.clone()
        broken[0, 0] = torch.nan
        overlap_of(base, broken)


def test_degenerate_matrices_have_defined_values() -> None:
    assert overlap_of(torch.zeros(5, 4), torch.zeros(5, 4)).left.shape == (4,)
    assert not overlap_of(torch.zeros(5, 4), torch.zeros(5, 4)).is_determined().any()
    assert overlap_of(torch.ones(1, 7), 2 * torch.ones(1, 7)).left.tolist() == pytest.approx([1.0])
    assert overlap_of(matrix(0, 5, 4), LowRank("weight", torch.empty(0, 4), torch.empty(5, 0), 1.0, (5, 4))).count() == 0
    assert overlap_of(matrix(0, 5, 4).bfloat16(), matrix(0, 5, 4).bfloat16()).count() == 0


def test_a_real_fine_tune_is_counted_as_the_definition_counts(real_checkpoints: object) -> None:
    from pathlib import Path

    import weightspace as ws
    from weightspace.analysis.layers import layers

    assert isinstance(real_checkpoints, Path)
    before, after = (ws.open(real_checkpoints / "textgenrnn" / f"{name}.hdf5") for name in ("base", "hacker_news"))
    for layer in layers(before):
        if layer.name in after.info and after.info[layer.name].shape == layer.shape:
            base, tuned = layer.matrix(before[layer.name]), layer.matrix(after[layer.name])
            assert counts_agree(overlap_of(base, tuned), base, tuned, 10, 0.5)
