import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightspace import dtypes
from weightspace.checkpoint import Checkpoint, TensorInfo
from weightspace.storage import Memory, Pieces
from weightspace.words import cut, folded, rounded, unfolded, word_size


@given(size=st.sampled_from([1, 2, 4, 8]), numbers=st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_folding_makes_small_differences_small_and_is_undone(size: int, numbers: list[int]) -> None:
    words = np.array([number % 2 ** (8 * size) for number in numbers], f"<u{size}")
    assert np.array_equal(unfolded(folded(words)), words) and folded(words).dtype == words.dtype
    signed = np.array([0, -1, 1, -2, 2, -3], f"<i{size}")
    assert [*folded(signed.view(f"<u{size}"))] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("dtype", "size"),
    [("F64", 8), ("C128", 8), ("C64", 4), ("BF16", 2), ("I16", 2), ("BOOL", 1), ("F8_E4M3", 1), ("F4", 1), ("F6_E2M3", 1), ("Q4_0", 1)],
)
def test_words_have_the_size_of_elements(dtype: str, size: int) -> None:
    assert word_size(TensorInfo("w", dtype, (32,))) == size


def test_blocks_are_cut_to_one_size() -> None:
    pieces = Pieces(1, (11,), (((7,), (4,), Memory(b"hijk")), ((0,), (7,), Memory(b"abcdefg"))))
    assert [bytes(block) for block in cut(pieces, 3)] == [b"abc", b"def", b"ghi", b"jk"]
    assert list(cut(Memory(b""), 3)) == []


def test_rounding_agrees_with_torch(generator: torch.Generator) -> None:
    values = torch.randn(5000, generator=generator) * 10.0 ** torch.randint(-6, 5, (5000,), generator=generator)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        words = rounded(values.numpy(), dtypes.from_torch(str(dtype)).name)
        assert words.tobytes() == bytes(Checkpoint.of({"w": values.to(dtype)}).raw("w"))
