"""Tests of families of stitched networks."""

from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.analysis.stitching.anchors import INPUTS, chain, data, maps
from weightspace.analysis.moments import Moments
from weightspace.analysis.stitching import Chain, Patchwork, Route, Stitch, fit_stitches, stitches
from weightspace.analysis.stitching.family import family
from weightspace.analysis.stitching.pareto import report
from weightspace.errors import AnalysisError, UnknownNameError
from weightspace.task import Task


@pytest.fixture
def inputs() -> torch.Tensor:
    return torch.randn(7, INPUTS, generator=torch.Generator().manual_seed(5))


def test_three_anchors_of_depth_12_have_71_routes() -> None:
    """3 + 2 x 34, as published for DeiT; and 11 shared layers a pair."""
    chains = [chain(width, 12) for width in (2, 3, 4)]
    task = data(chains[0], examples=8)
    made = family(chains, task, share="joint")
    assert (len(made.routes), len(made.stitches)) == (71, 22)
    assert len(family(chains, task, window="forward", pairs="all").routes) == 3 + 3 * 11


def test_anchors_come_first_in_the_order_of_flops_and_answer_as_they_did(inputs: torch.Tensor) -> None:
    chains = {"large": chain(6, 2), "small": chain(3, 2), "middle": chain(4, 2)}
    made = family(chains, data(chains["large"]))
    assert made.names == ("small", "middle", "large")
    for at, name in enumerate(made.names):
        assert made.routes[at].is_anchor
        torch.testing.assert_close(made.use(at)(inputs), chains[name](inputs))
    ways = [tuple(piece.chain for piece in route.pieces) for route in made.routes[3:]]
    assert set(ways) == {(0, 1), (1, 2)}


def test_a_network_stitched_into_itself_is_itself(inputs: torch.Tensor) -> None:
    """Where what runs is the whole network: joins that skip nothing and run nothing twice."""
    one = chain(4, 3)
    made = family([one, one], data(one), window="forward", settings={"ridge": 0.0})
    for route in range(2, len(made.routes)):
        torch.testing.assert_close(made.use(route)(inputs), one(inputs), atol=1e-4, rtol=1e-4)


def test_block_0_is_given_what_crosses_behind_the_stem() -> None:
    """The paper's code fits these joins to the features of the last block."""
    front, end = chain(3, 2), chain(5, 2)
    made = family([front, end], data(end), settings={"ridge": 0.0})
    route = next(one for one in made.routes if one.stitches and one.pieces[1].start == 0 and one.pieces[0].stop == 1)
    stitch = made.stitches[route.stitches[0]]
    given = torch.cat([x for x, _ in data(end).batches])
    taken, wanted = front.run((given,), stop=1), end.run((given,), stop=0)
    rows = torch.cat([taken, torch.ones(len(taken), 1)], 1).double()
    found = torch.linalg.lstsq(rows, wanted.double()).solution.float()
    torch.testing.assert_close(stitch.weight, found[:-1].T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(stitch.bias, found[-1], atol=1e-4, rtol=1e-4)


def test_own_layers_are_those_that_pairs_have_alone() -> None:
    front, end = chain(3, 3), chain(5, 3)
    made = family([front, end], data(end))
    alone = fit_stitches(front, end, data(end), [(2, 1)])[2, 1]
    route = next(one for one in made.routes if one.stitches and (one.pieces[0].stop, one.pieces[1].start) == (2, 1))
    torch.testing.assert_close(made.stitches[route.stitches[0]].weight, alone.weight)


def test_a_joint_layer_has_the_least_squared_error_over_all_its_joins_and_an_averaged_one_more() -> None:
    front, end = chain(3, 3), chain(5, 3)
    errors = {}
    for share in ("own", "joint", "averaged"):
        made = family([front, end], data(end), share=share)
        errors[share] = sum(_error(made, route) for route in made.routes if route.stitches)
        assert len(made.stitches) == (7 if share == "own" else 2)
    assert errors["own"] < errors["joint"] < errors["averaged"]


def _error(made: Patchwork, route: Route) -> float:
    """The squared error of a route's stitch on the data it was fitted on."""
    total = 0.0
    for x, _ in data(made).batches:
        a, b = route.pieces
        stop = a.stop
        assert stop is not None
        taken, wanted = made.chain(a.chain).run((x,), stop=stop), made.chain(b.chain).run((x,), stop=b.start)
        total += float((made.stitches[route.stitches[0]](taken) - wanted).square().sum().detach())
    return total


def test_an_averaged_layer_is_the_mean_of_its_pairs() -> None:
    front, end = chain(3, 2), chain(5, 2)
    made = family([front, end], data(end), share="averaged")
    alone = fit_stitches(front, end, data(end), [(1, 0), (1, 1), (2, 0), (2, 1)])
    torch.testing.assert_close(made.stitches[0].weight, torch.stack([one.weight for one in alone.values()]).mean(0))


def test_joint_equations_are_those_of_all_samples() -> None:
    front, end = chain(3, 2), chain(5, 2)
    moments = Moments()
    for x, _ in data(end).batches:
        for a, b in ((1, 0), (1, 1), (2, 0), (2, 1)):
            moments.add(front.run((x,), stop=a).detach(), end.run((x,), stop=b).detach())
    made = family([front, end], data(end), share="joint")
    stitch = made.stitches[0]
    assert isinstance(stitch, Stitch)
    torch.testing.assert_close(stitch.weight.double(), stitches["linear"](moments).weight, atol=1e-5, rtol=1e-5)


def test_interpolation_shares_a_layer_for_each_block_of_the_front() -> None:
    """Interpolation gives block 1 of the front two blocks of the end: one layer, or two."""
    front, end = chain(3, 2), chain(5, 4)
    assert len(family([front, end], data(end), share="joint").stitches) == 2
    assert len(family([front, end], data(end)).stitches) == 3


def test_the_same_chance_gives_the_same_random_stitches() -> None:
    chains = [chain(3, 2), chain(4, 2)]
    one, other, another = (
        next(family(chains, data(chains[0]), kind="random", generator=torch.Generator().manual_seed(seed)).stitches.parameters())
        for seed in (1, 1, 2)
    )
    assert torch.equal(one, other) and not torch.equal(one, another)


def test_bad_input_is_one_line() -> None:
    chains = [chain(3, 2), chain(4, 2)]
    with pytest.raises(UnknownNameError, match="no way to share named 'join'; did you mean 'joint'"):
        family(chains, data(chains[0]), share="join")
    with pytest.raises(AnalysisError, match="needs two networks or more, found 1"):
        family(chains[:1], data(chains[0]))
    with pytest.raises(AnalysisError, match="found no batches"):
        family(chains, replace(data(chains[0]), batches=[]))


def test_images_with_stages_make_a_family_whose_stitches_are_convolutions_of_one_pixel() -> None:
    chains = [maps((1, 1), 2), maps((3, 2), 4)]
    task = Task.classification(chains[0], torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3)
    made = family(chains, task, bias="places")
    assert {(route.pieces[0].stop, route.pieces[1].start) for route in made.routes[2:]} == {(1, 1), (1, 2), (2, 4)}
    x = next(iter(task.batches))[0]
    for at in range(2, len(made.routes)):
        assert made.use(at)(x).shape == (8, 3)


def test_looking_at_networks_changes_no_running_statistics() -> None:
    """Nor the mode that they are in."""
    blocks = ({"stem": nn.Linear(INPUTS, w), "norm": nn.BatchNorm1d(w), "block": nn.Linear(w, w), "head": nn.Linear(w, 3)} for w in (3, 4))
    chains = [Chain.of_blocks(OrderedDict(one), torch.randn(4, INPUTS)).train() for one in blocks]
    before = [one.clone() for chain in chains for one in chain.buffers()]
    made = family(chains, data(chains[0]))
    report(made, data(chains[0]), repeats=1)
    assert all(torch.equal(now, then) for now, then in zip(made.buffers(), before, strict=True))
    assert all(one.training for one in chains)
