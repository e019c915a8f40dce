"""Tests of what routes cost."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.analysis.stitching.anchors import CLASSES, INPUTS, chain, data
from weightspace.analysis.stitching import Chain, Patchwork, Piece, Route
from weightspace.analysis.stitching.costs import costs, flops_of, memory_of
from weightspace.analysis.stitching.family import family
from weightspace.errors import AnalysisError


def test_a_multiplication_with_its_addition_counts_2() -> None:
    assert flops_of(nn.Linear(4, 8), (torch.zeros(3, 4), torch.zeros(3))) == 2 * 4 * 8


def test_a_convolution_counts_each_place() -> None:
    assert flops_of(nn.Conv1d(2, 3, 3, padding=1), (torch.zeros(5, 2, 7), torch.zeros(5))) == 2 * 3 * 2 * 3 * 7


def test_a_route_costs_its_pieces_and_its_stitch() -> None:
    """In a family of widths 3 and 5 and two blocks each, counted by hand."""
    made = family([chain(3, 2), chain(5, 2)], data(chain(3, 2)))
    found = costs(made, data(made), repeats=0)
    route = next(at for at, one in enumerate(made.routes) if one.stitches and (one.pieces[0].stop, one.pieces[1].start) == (1, 1))
    stem, head, stitch = INPUTS * 3, 5 * CLASSES, 3 * 5
    blocks = 2 * 3 * 6 + 2 * 5 * 10  # one of each
    assert found[route].flops == 2 * (stem + blocks + head + stitch)
    assert found[route].parameters == stem + 3 + head + CLASSES + stitch + 5 + blocks + (6 + 3) + (10 + 5)
    assert found[0].flops == 2 * (INPUTS * 3 + 2 * 2 * 3 * 6 + 3 * CLASSES)


def test_costs_are_of_one_example_whatever_the_batch() -> None:
    made = family([chain(3, 2), chain(5, 2)], data(chain(3, 2)))
    few, many = (costs(made, data(made), examples=count, repeats=0) for count in (2, 16))
    assert [(one.flops, one.parameters, one.memory) for one in few] == [(one.flops, one.parameters, one.memory) for one in many]
    assert (few[0].examples, many[0].examples) == (2, 16) and math.isnan(few[0].latency)


def test_latency_is_the_median_of_rounds_without_the_first() -> None:
    """A clock on which the runs of two routes take 100, 1; 2, 20; 4, 10; 6, 30 seconds; the first round warms up."""
    durations = [100.0, 1.0, 2.0, 20.0, 4.0, 10.0, 6.0, 30.0]
    ticks = itertools.chain.from_iterable((0.0, seconds) for seconds in durations)
    chains = [chain(3, 2), chain(5, 2)]
    made = Patchwork(chains, [], [Route((Piece(at),)) for at in (0, 1)])
    found = costs(made, data(made), examples=4, repeats=3, warm_up=1, clock=lambda: next(ticks))
    assert [one.latency for one in found] == [4.0 / 4, 20.0 / 4]


def test_latency_is_measured_and_the_route_in_use_stays() -> None:
    made = family([chain(3, 2), chain(5, 2)], data(chain(3, 2))).use(3)
    assert all(one.latency > 0 for one in costs(made, data(made), repeats=1, warm_up=0)) and made.route == 3


def test_memory_is_the_most_that_is_held_at_one_time() -> None:
    """Of two layers the first's values are dropped once the second's are made, but not before; views hold nothing."""
    module = nn.Sequential(nn.Linear(4, 8, bias=False), nn.Flatten(), nn.Linear(8, 2, bias=False), nn.Linear(2, 3, bias=False))
    assert memory_of(module, (torch.zeros(5, 4), torch.zeros(5))) == 4 * (8 + 2)


def test_memory_of_a_chain_grows_with_its_width() -> None:
    small, large = (memory_of(chain(width, 2), next(iter(data(chain(3, 2)).batches))) for width in (3, 30))
    assert 0 < small < large < 4 * 30 * 8


def test_no_data_is_said() -> None:
    made = Patchwork([chain(3, 2)], [], [Route((Piece(0),))])
    with pytest.raises(AnalysisError, match="expected data to run routes on, found no batches"):
        costs(made, replace(data(made), batches=[]))


def test_traced_networks_cost_what_the_module_costs() -> None:
    net = nn.Sequential(nn.Linear(INPUTS, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, CLASSES))
    batch = next(iter(data(net).batches))
    assert flops_of(Chain.of(net, batch[0]), batch) == flops_of(net, batch) == 2 * (INPUTS * 8 + 8 * 4 + 4 * CLASSES)
