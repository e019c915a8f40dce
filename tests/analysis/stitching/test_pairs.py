"""Tests of which blocks are joined."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.analysis.stitching.anchors import chain, maps
from weightspace.analysis.stitching.pairs import Join, every, interpolated, joins, neighbours, windows
from weightspace.errors import AnalysisError, UnknownNameError


@given(st.integers(2, 40))
def test_windows_over_a_depth_hold_3d_minus_2_joins_in_d_minus_1_groups(depth: int) -> None:
    found = windows(depth)
    assert len(found) == 3 * depth - 2 and len({one.group for one in found}) == depth - 1
    assert len({(one.front, one.end) for one in found}) == len(found)
    assert all(abs(one.front - one.end) <= 1 for one in found)


@given(st.integers(2, 40))
def test_forward_windows_hold_one_join_a_window(depth: int) -> None:
    assert windows(depth, forward=True) == [Join(at, at + 1, at) for at in range(depth - 1)]


def test_depth_12_gives_34_joins_and_11_layers_as_published() -> None:
    assert (len(windows(12)), len({one.group for one in windows(12)})) == (34, 11)


def test_one_block_is_joined_with_the_other() -> None:
    assert windows(1) == [Join(0, 0, 0)] and windows(1, forward=True) == []


@given(st.integers(1, 30), st.integers(1, 30))
def test_interpolation_is_what_torch_interpolates(front: int, end: int) -> None:
    """As the paper's code does it where the front is the shallower."""
    if front > end:
        front, end = end, front
    ids = torch.arange(front, dtype=torch.float64)[None, None]
    # Exact where a float scale would be off: nearest takes floor(i * front / end), here from whole numbers.
    mapped = [at * front // end for at in range(end)]
    if front in (1, 2, 4, 8, 16) and end % front == 0:
        assert torch.nn.functional.interpolate(ids, end)[0, 0].long().tolist() == mapped
    wanted = {(idx, at) for idx in range(front) for at in range(end) if mapped[at] == idx and idx < at}
    assert {(one.front, one.end) for one in interpolated(front, end)} == wanted
    assert all(one.group == one.front for one in interpolated(front, end))


@given(st.integers(2, 30), st.integers(1, 29))
def test_a_deeper_front_is_joined_the_other_way_round(front: int, end: int) -> None:
    if end >= front:
        return
    found = interpolated(front, end)
    assert all(one.end == one.front * end // front and 0 < one.end < end for one in found)
    assert len({one.front for one in found}) == len(found)
    assert bool(found) == (end > 1)


def test_the_cut_of_an_end_is_the_one_before_its_block_and_block_0_has_the_stem() -> None:
    assert Join(2, 0, 0).cuts == (3, 0)
    assert Join(0, 1, 0).cuts == (1, 1)


def test_every_block_is_joined_with_every_other() -> None:
    assert {(one.front, one.end) for one in every(2, 3)} == {(j, k) for j in range(2) for k in range(3)}
    assert {one.cuts for one in joins(chain(4, 2), chain(4, 3), "every")} == {(j + 1, k) for j in range(2) for k in range(3)}


def test_chains_of_one_depth_have_windows_and_others_interpolation() -> None:
    assert joins(chain(4, 3), chain(5, 3)) == windows(3)
    assert joins(chain(4, 3), chain(5, 3), "forward") == windows(3, forward=True)
    assert joins(chain(4, 2), chain(5, 4)) == interpolated(2, 4)


def test_stages_are_joined_each_with_its_own() -> None:
    """Stages of 2 and 4 blocks, then 1 and 3: nothing crosses from one into the other, nor begins at a block that changes places."""
    front, end = maps((2, 1), 3), maps((4, 3), 3)
    found = joins(front, end)
    assert {(one.front, one.end) for one in found} == {(0, 1), (1, 2), (1, 3), (2, 5), (2, 6)}
    assert all(front.cuts[a].places == end.cuts[b].places for a, b in (one.cuts for one in found))
    assert [one.group for one in found] == [0, 1, 1, 2, 2]


def test_equal_stages_have_windows_whose_joins_keep_places() -> None:
    front, end = maps((2, 2), 3), maps((2, 2), 4)
    found = joins(front, end)
    assert {(one.front, one.end) for one in found} == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 3), (3, 3)}
    assert all(front.cuts[a].places == end.cuts[b].places for a, b in (one.cuts for one in found))


def test_networks_with_other_numbers_of_stages_are_joined_as_a_whole() -> None:
    assert joins(maps((2, 2), 3), maps((4,), 3)) == windows(4)


def test_smaller_networks_run_into_larger_ones() -> None:
    assert neighbours([30.0, 10.0, 20.0]) == [(1, 2), (2, 0)]
    assert neighbours([30.0, 10.0, 20.0], "all") == [(1, 2), (1, 0), (2, 0)]


def test_unknown_choices_are_named() -> None:
    with pytest.raises(UnknownNameError, match="no window named 'al'; did you mean 'all'"):
        joins(chain(4, 2), chain(4, 2), "al")
    with pytest.raises(UnknownNameError, match="no choice of pairs named 'neerest'; did you mean 'nearest'"):
        neighbours([1.0, 2.0], "neerest")


def test_a_network_with_one_cut_is_refused() -> None:
    with pytest.raises(AnalysisError, match="needs two cuts or more, found one"):
        joins(chain(4, 0), chain(4, 2))


def test_nothing_to_join_is_said() -> None:
    with pytest.raises(AnalysisError, match="no blocks to join between networks of 1 and 1 blocks; take window='every'"):
        joins(chain(4, 1), chain(4, 1), "forward")
