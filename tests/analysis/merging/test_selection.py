"""Selection finds what sorting finds, however the values are cut, with ties, zeros and the smallest numbers there are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weightspace.analysis.merging.selection import as_words, kth_largest

DTYPES = {torch.float32: 32, torch.float64: 64}


@pytest.mark.parametrize(("dtype", "width"), DTYPES.items())
@settings(max_examples=40)
@given(data=st.data(), piece=st.integers(1, 30))
def test_selection_equals_sorting(dtype: torch.dtype, width: int, data: st.DataObject, piece: int) -> None:
    numbers = st.floats(0, allow_infinity=False, width=width) | st.sampled_from([0.0, 1e-45, 2e-45, 1.0, 1.5])
    series = [torch.tensor(data.draw(st.lists(numbers, min_size=20, max_size=20)), dtype=dtype) for _ in range(2)]
    ranks = data.draw(st.lists(st.integers(1, 20), max_size=4))
    found = kth_largest(lambda: zip(*(values.split(piece) for values in series), strict=True), lambda *_: ranks)
    assert found == [[values.sort(descending=True).values[rank - 1].item() for rank in ranks] for values in series]


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_ranks_of_many_values_of_one_magnitude(dtype: torch.dtype) -> None:
    values = (1 + torch.rand(3000, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 1e-3).round(decimals=6)
    ranks = [1, 2, 1499, 1500, 2999, 3000]
    (found,) = kth_largest(lambda: ([part] for part in values.split(700)), lambda *_: ranks)
    assert found == [np.sort(values.numpy())[-rank] for rank in ranks]


def test_ranks_may_hang_on_how_many_values_are_not_zero() -> None:
    told: list[tuple[int, int]] = []
    values = torch.tensor([0.0, 3.0, 0.0, 1.0, 2.0])
    found = kth_largest(lambda: [[values, values[:3] * 0]], lambda series, nonzero: told.append((series, nonzero)) or [1])
    assert told == [(0, 3), (1, 0)]
    assert found == [[3.0], [0.0]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_words_are_in_the_order_of_their_numbers(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, 1e-45, 1e-30, 1.0, 2.0, 3e38, float("inf"), float("nan")], dtype=dtype)
    assert (as_words(values).diff() >= 0).all()
