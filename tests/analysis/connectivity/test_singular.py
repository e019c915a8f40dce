"""R is the sum it is defined as, does not depend on the choice of vectors, and says where a threshold makes it arbitrary."""

import math

import pytest
import torch

from tests.analysis.connectivity.conftest import Pair, align
from weightspace.analysis.connectivity import null_alignment, singular_alignment
from weightspace.errors import TaskError, UnknownNameError


def by_hand(a: torch.Tensor, b: torch.Tensor, gamma: float) -> tuple[float, float]:
    """The sum over pairs term by term, and the number of values kept."""
    (left_a, values_a, right_a), (left_b, values_b, right_b) = (
        torch.linalg.svd(one.flatten(1).double(), full_matrices=False) for one in (a, b)
    )
    kept_a, kept_b = (int((values / values[0] >= gamma).sum()) for values in (values_a, values_b))
    total = sum((left_a[:, i] @ left_b[:, j] * (right_a[i] @ right_b[j])).item() for i in range(kept_a) for j in range(kept_b))
    return total, (kept_a + kept_b) / 2


def orthogonal(size: int, generator: torch.Generator) -> torch.Tensor:
    made: torch.Tensor = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator))[0]
    return made


def test_it_is_the_sum_of_the_paper_for_each_weight_and_all_together(generator: torch.Generator) -> None:
    a, b = (
        {"conv": torch.randn(5, 3, 2, 2, generator=generator), "fc": torch.randn(4, 9, generator=generator), "bias": torch.randn(4)}
        for _ in range(2)
    )
    found = singular_alignment(a, b)
    assert [(one.name, one.gamma) for one in found.layers] == [(name, gamma) for name in ("conv", "fc") for gamma in (0.0, 0.1, 0.3, 0.5)]
    for at, gamma in enumerate((0.0, 0.1, 0.3, 0.5)):
        parts = [by_hand(a[name], b[name], gamma) for name in ("conv", "fc")]
        total = found.totals[at]
        assert total.value == pytest.approx(sum(value for value, _ in parts) / sum(kept for _, kept in parts))
        assert total.kept == sum(kept for _, kept in parts)
        of_fc = next(one for one in found.layers if (one.name, one.gamma) == ("fc", gamma))
        assert of_fc.value == pytest.approx(parts[1][0] / parts[1][1])


def test_one_for_itself_and_for_a_permuted_copy_once_it_is_aligned(perceptrons: Pair) -> None:
    for total in singular_alignment(perceptrons.a, perceptrons.a).totals:
        assert total.value == pytest.approx(1)
    independent, aligned = (singular_alignment(perceptrons.a, b).totals for b in (perceptrons.b, perceptrons.aligned))
    assert all(abs(total.value) < 0.1 for total in independent)
    assert aligned[2].value > 0.2 and aligned[2].value > aligned[0].value, "the directions of large singular values agree best"


def test_vectors_chosen_within_equal_singular_values_make_no_difference(generator: torch.Generator) -> None:
    left, right, turn = (orthogonal(6, generator) for _ in range(3))
    values = torch.tensor([3.0, 2.0, 2.0, 2.0, 1.0, 0.5], dtype=torch.float64)
    block = torch.eye(6, dtype=torch.float64)
    block[1:4, 1:4] = orthogonal(3, generator)
    a = {"w": left @ values.diag() @ right}
    turned = {"w": (left @ block) @ values.diag() @ (block.T @ right)}
    b = {"w": turn @ values.diag() @ right}
    for gamma in (0.0, 0.5):
        [one], [two] = (singular_alignment(first, b, [gamma]).totals for first in (a, turned))
        assert one.value == pytest.approx(two.value, abs=1e-9)
    assert singular_alignment(a, turned, [0.5]).totals[0].value == pytest.approx(1)


def test_a_threshold_within_near_equal_values_keeps_them_whole_and_bounds_the_rest(generator: torch.Generator) -> None:
    values = torch.tensor([1.0, 0.3002, 0.2999, 0.1], dtype=torch.float64)
    a, b = ({"w": orthogonal(4, generator) @ values.diag() @ orthogonal(4, generator)} for _ in range(2))
    [cut], [strict] = (singular_alignment(a, b, [0.3], tie=tie).totals for tie in (1e-3, 0.0))
    assert (cut.kept, strict.kept) == (3, 2)
    assert cut.low <= min(cut.value, strict.value) and max(cut.value, strict.value) <= cut.high and cut.low < cut.high
    assert strict.low == strict.value == strict.high
    assert strict.value == pytest.approx(by_hand(a["w"], b["w"], 0.3)[0] / 2)
    [clear] = singular_alignment(a, b, [0.2]).totals
    assert clear.low == clear.value == clear.high and clear.kept == 3


def test_values_that_are_zero_have_no_directions() -> None:
    a, b = {"w": torch.outer(torch.tensor([1.0, 2.0, 0.5]), torch.tensor([1.0, 1.0]))}, {"w": torch.zeros(3, 2)}
    assert singular_alignment(a, a, [0.0]).totals[0].kept == 1
    [nothing] = singular_alignment(b, b, [0.0]).totals
    assert math.isnan(nothing.value) and nothing.kept == 0
    both = {**a, "v": torch.zeros(2, 2)}
    assert singular_alignment(both, both, [0.0]).totals[0].value == pytest.approx(1)


def test_tied_weights_count_once_and_names_can_be_chosen(generator: torch.Generator) -> None:
    weight, other = torch.randn(3, 3, generator=generator), torch.randn(3, 3, generator=generator)
    tied = {"x": weight, "y": weight, "z": other, "n": torch.ones(2, 2, dtype=torch.long)}
    assert [one.name for one in singular_alignment(tied, tied, [0.0]).layers] == ["x", "z"]
    assert [one.name for one in singular_alignment(tied, tied, [0.0], names=["z"]).layers] == ["z"]
    with pytest.raises(UnknownNameError, match="no tensor named 'w'"):
        singular_alignment(tied, tied, names=["w"])


def test_values_that_are_not_finite() -> None:
    with pytest.raises(TaskError, match="tensor 'w' has values that are not finite, and so no singular vectors; leave it out by `names`"):
        singular_alignment({"w": torch.eye(2)}, {"w": torch.full((2, 2), math.inf)})


def test_the_null_is_what_alignment_gives_random_networks(perceptrons: Pair) -> None:
    null = null_alignment(perceptrons.a, perceptrons.b, align, [0.0, 0.3], generator=torch.Generator().manual_seed(0), nulls=2)
    real = singular_alignment(perceptrons.a, perceptrons.aligned, [0.0, 0.3]).totals
    assert list(null) == [0.0, 0.3] and all(len(values) == 2 for values in null.values())
    assert max(null[0.3]) < real[1].value
    assert min(null[0.0]) > 0.02, "not zero: matching aligns random networks too"
