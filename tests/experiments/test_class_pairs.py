"""What the tables on class pairs rest on: nothing held out is learned from, and swapped networks answer the other way round."""

import itertools

import pytest
import torch

from weightspace.analysis.generation.material import stacked
from weightspace.experiments.class_pairs import CLASSES, SPLITS, Rotation, fresh, judged, swapped
from weightspace.zoo.populations.data import load


@pytest.mark.parametrize("seed", [-2, -1, 0, 4, 7])
def test_nothing_that_is_held_out_is_learned_from(seed: int) -> None:
    rotation = Rotation(seed)
    learned, held_out = rotation.pairs["learned"], set(rotation.held_out)
    assert len(held_out) == 2
    both, one, unseen, seen = (rotation.pairs[split] for split in SPLITS)
    assert all(not held_out & set(pair) for pair in [*learned, *unseen, *seen])
    assert all(set(pair) == held_out for pair in both)
    assert all(len(held_out & set(pair)) == 1 for pair in one)
    assert not set(unseen) & set(learned)
    assert set(seen) <= set(learned)
    assert len(learned) == 48
    assert set(itertools.chain(*learned)) == set(range(CLASSES)) - held_out


def test_the_first_five_seeds_hold_out_every_class_once() -> None:
    assert sorted(itertools.chain(*(Rotation(seed).held_out for seed in range(5)))) == list(range(CLASSES))


def test_a_swapped_network_is_as_good_the_other_way_round() -> None:
    networks = stacked(fresh(2, 0))
    data = load("mnist1d")
    assert judged(data, (3, 7), networks) == pytest.approx(judged(data, (7, 3), swapped(networks)))
    assert judged(data, (3, 7), networks) == pytest.approx(1 - judged(data, (7, 3), networks))
    assert not torch.equal(swapped(networks)["2.bias"], networks["2.bias"])
