"""Chance hangs on the seed, the tensor, the place and the input; not on order or cutting; and is as frequent as it says."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from weightspace.analysis.merging.chance import Chance

CHANCE = Chance(3, "layer.weight", keys=("a", "b"))


@given(cuts=st.lists(st.integers(0, 11), max_size=4), width=st.integers(1, 7))
def test_draws_do_not_hang_on_how_a_tensor_is_cut(cuts: list[int], width: int) -> None:
    bounds = sorted({0, *cuts, 11})
    runs = list(pairwise(bounds))
    uniform = [CHANCE.at(start).uniform(0, (end - start, width)) for start, end in runs]
    keeps = [CHANCE.at(start).keeps(0, (end - start, width), 0.4) for start, end in runs]
    assert torch.equal(torch.cat(uniform), CHANCE.uniform(0, (11, width)))
    assert torch.equal(torch.cat(keeps), CHANCE.keeps(0, (11, width), 0.4))


def test_draws_follow_their_input_in_any_order() -> None:
    turned = replace(CHANCE, keys=("b", "a"))
    assert torch.equal(CHANCE.uniform(0, (5, 4)), turned.uniform(1, (5, 4)))
    assert torch.equal(CHANCE.keeps(1, (50, 4), 0.5), turned.keeps(0, (50, 4), 0.5))


@pytest.mark.parametrize(
    "other", [replace(CHANCE, seed=4), replace(CHANCE, tensor="other.weight"), replace(CHANCE, keys=("b",)), CHANCE.at(7)]
)
def test_draws_differ_between_seeds_tensors_inputs_and_rows(other: Chance) -> None:
    one, two = (chance.uniform(0, (100_000,)) for chance in (CHANCE, other))
    assert abs(torch.corrcoef(torch.stack([one, two]))[0, 1]) < 0.02


def test_uniform_numbers_fill_their_range_evenly() -> None:
    drawn = CHANCE.uniform(0, (400, 1000))
    assert drawn.dtype == torch.float32
    assert 0 <= drawn.min() < 1e-4
    assert 1 - 1e-4 < drawn.max() < 1
    assert torch.histc(drawn, 20, 0, 1).sub(20_000).abs().max() < 5 * 20_000**0.5


@pytest.mark.parametrize("share", [1e-6, 0.001, 0.1, 0.5, 0.77, 0.9999])
def test_entries_are_kept_as_often_as_said(share: float) -> None:
    count = 4_000_000
    kept = int(CHANCE.keeps(0, (count,), share).sum())
    assert abs(kept - share * count) <= 5 * (share * (1 - share) * count) ** 0.5


def test_probabilities_finer_than_the_draws_are_kept_by_place() -> None:
    """A share of half of 2^-16: half of the entries whose 16 bits are all zero."""
    none, half, whole = (CHANCE.keeps(0, (16_000_000,), bound / 2**17).sum() for bound in (0, 1, 2))
    assert none == 0
    assert 0.3 * whole < half < 0.7 * whole


def test_none_and_all_are_certain() -> None:
    assert not CHANCE.keeps(0, (1000, 100), 0.0).any()
    assert CHANCE.keeps(0, (1000, 100), 1.0).all()
    assert CHANCE.keeps(0, (), 1.0).shape == CHANCE.uniform(0, ()).shape == ()
    assert CHANCE.keeps(0, (0, 3), 0.5).shape == CHANCE.uniform(0, (0, 3)).shape == (0, 3)


def test_draws_stay_what_they_are_from_version_to_version() -> None:
    assert (CHANCE.uniform(0, (4,)) * 2**24).int().tolist() == GOLDEN
    assert CHANCE.keeps(0, (12,), 0.5).int().tolist() == KEPT


GOLDEN = [3912841, 11009752, 12777899, 14686191]
KEPT = [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
