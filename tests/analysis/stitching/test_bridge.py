"""Places of one cut become those of another: the same where they are alike, pooled or interpolated where they are not."""

import pytest
import torch

from weightspace.analysis.stitching import Bridge
from weightspace.errors import AnalysisError
from weightspace.tracing.cutting import Cut


def cut(*shape: int, axis: int = 0) -> Cut:
    return Cut("here", shape, axis)


CUTS = {
    "vector": cut(6),
    "map": cut(6, 4, 4),
    "small map": cut(5, 2, 2),
    "flat map": cut(6, 3, 5),
    "signal": cut(6, 8),
    "tokens": cut(5, 7, axis=1),
    "more tokens": cut(18, 7, axis=1),
    "plain tokens": cut(12, 7, axis=1),
}


@pytest.mark.parametrize("source", CUTS)
@pytest.mark.parametrize("target", CUTS)
def test_rows_have_a_place_for_each_of_the_target_and_go_back_to_its_shape(source: str, target: str) -> None:
    bridge = Bridge(CUTS[source], CUTS[target])
    left, right = torch.randn(3, *CUTS[source].shape), torch.randn(3, *CUTS[target].shape)
    before = left.clone()
    rows, wanted = bridge.rows(left), bridge.target_rows(right)
    assert rows.shape[:2] == wanted.shape[:2] == (3, bridge.positions)
    assert (rows.shape[2], wanted.shape[2]) == bridge.units
    assert torch.equal(bridge.back(wanted), right) and torch.equal(left, before)
    assert torch.allclose(bridge.rows(torch.full_like(left, 2.5)), torch.tensor(2.5))  # nothing is added or lost on the way
    assert torch.equal(bridge.rows(left[1:2]), rows[1:2])


@pytest.mark.parametrize("name", CUTS)
def test_between_places_alike_nothing_changes(name: str) -> None:
    one = CUTS[name]
    features = torch.randn(3, *one.shape)
    bridge = Bridge(one, one)
    assert torch.equal(bridge.back(bridge.rows(features)), features) and bridge.units == (one.units, one.units)


def test_a_map_is_pooled_to_fewer_places_and_interpolated_to_more() -> None:
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    rows = Bridge(cut(1, 4, 4), cut(1, 2, 2)).rows(image)
    assert rows.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    line = torch.tensor([[[0.0, 1.0]]])
    assert Bridge(cut(1, 2), cut(1, 4)).rows(line).flatten().tolist() == [0, 0.25, 0.75, 1]


def test_class_tokens_go_to_class_tokens_and_where_there_are_none_the_mean_does() -> None:
    tokens = torch.arange(5.0)[None, :, None]
    more = Bridge(cut(5, 1, axis=1), cut(18, 1, axis=1)).rows(tokens)[0, :, 0]
    assert more[:2].tolist() == [0, 0] and more.shape == (18,) and more[2] == 1 and more[-1] == 4
    assert Bridge(cut(5, 1, axis=1), cut(1, 2, 2)).rows(tokens).flatten().tolist() == [1, 2, 3, 4]
    assert Bridge(cut(1, 2, 2), cut(5, 1, axis=1)).rows(torch.arange(1.0, 5).reshape(1, 1, 2, 2)).flatten().tolist() == [2.5, 1, 2, 3, 4]


def test_a_map_that_becomes_a_vector_keeps_sixteen_places() -> None:
    assert Bridge(cut(3, 8, 8), cut(6)).units == (48, 6)
    assert Bridge(cut(3, 40), cut(6)).units == (48, 6)
    assert Bridge(cut(6), cut(3, 8, 8)).units == (6, 192)


def test_more_dimensions_of_places_are_refused() -> None:
    with pytest.raises(AnalysisError, match="cut 'here' has 3 dimensions of places, expected two at most; cut elsewhere"):
        Bridge(cut(2, 3, 3, 3), cut(6))
