"""Selection finds what sorting finds, however the values are cut, with ties, zeros and the smallest numbers there are."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weightspace.analysis.merging.selection import as_words, kth_largest

DTYPES = [torch.float32, torch.float64]
WORDS = {torch.float32: torch.int32, torch.float64: torch.int64}


def cut(piece: int, *series: Tensor) -> Iterator[list[Tensor]]:
    for start in range(0, len(series[0]), piece):
        yield [values[start : start + piece] for values in series]


@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=40)
@given(data=st.data(), piece=st.integers(4, 30), ranks=st.lists(st.integers(1, 20), max_size=4))
def test_selection_equals_sorting(dtype: torch.dtype, data: st.DataObject, piece: int, ranks: list[int]) -> None:
    largest = int(as_words(torch.tensor(torch.finfo(dtype).max, dtype=dtype)))
    words = st.integers(0, largest) | st.sampled_from([0, 1, 2, 65535, 65536, 65537, largest])
    drawn = data.draw(st.lists(st.lists(words, min_size=20, max_size=20), min_size=1, max_size=2))
    series = [torch.tensor(one, dtype=WORDS[dtype]).view(dtype) for one in drawn]
    found = kth_largest(lambda: cut(piece, *series), lambda *_: ranks)
    assert found == [[values.sort(descending=True).values[rank - 1].item() for rank in ranks] for values in series]


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_ranks_of_many_values_of_one_magnitude(dtype: torch.dtype) -> None:
    values = (1 + torch.rand(3000, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 1e-3).round(decimals=6)
    ranks = [1, 2, 1499, 1500, 2999, 3000]
    (found,) = kth_largest(lambda: cut(700, values), lambda *_: ranks)
    assert found == [values.sort().values[-rank].item() for rank in ranks]


def test_ranks_may_hang_on_how_many_values_are_not_zero() -> None:
    told: list[tuple[int, int]] = []
    values = torch.tensor([0.0, 3.0, 0.0, 1.0, 2.0])

    def largest(series: int, nonzero: int) -> list[int]:
        told.append((series, nonzero))
        return [1]

    assert kth_largest(lambda: [[values, values[:3] * 0]], largest) == [[3.0], [0.0]]
    assert told == [(0, 3), (1, 0)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_words_are_in_the_order_of_their_numbers(dtype: torch.dtype) -> None:
    values = torch.tensor([0.0, 1e-45, 1e-30, 1.0, 2.0, 3e38, float("inf"), float("nan")], dtype=dtype)
    assert (as_words(values).diff() >= 0).all()
