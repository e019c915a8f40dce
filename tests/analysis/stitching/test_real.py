"""Real networks of CIFAR-10 are cut at every block, and a stitch from a network to itself changes nothing."""

from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from weightspace.analysis.stitching import Chain, fit_stitches, stitched
from weightspace.analysis.stitching.fit import fit_error
from weightspace.experiments.real_networks import DEPTHS, Family, images, network
from weightspace.task import Task

COUNT = 16  # of the hundred images, where nothing is learned from them
LOST = {20: {"conv1": 2, "layer1.0": 1, "layer2.0": 1, "layer3.0": 1}, 56: {"conv1": 1, "layer2.0": 1, "layer3.0": 4, "layer3.1": 1}}
"""Units that respond to none of these images, or are the same there, by cut."""


@cache
def chain_and_task(folder: Path, family: Family, which: int) -> tuple[Chain, Task]:
    module, data = network(folder, family, which), images(folder, family)
    task = Task.classification(module, data.inputs[:COUNT], data.classes[:COUNT])
    return Chain.of(module, data.inputs[:2]), task


SLOW = [pytest.param(depth, marks=pytest.mark.slow) for depth in DEPTHS[1:]]


@pytest.mark.parametrize("depth", [DEPTHS[0], *SLOW])
def test_a_residual_network_is_cut_behind_its_stem_and_every_block(real_checkpoints: Path, depth: int) -> None:
    chain, task = chain_and_task(real_checkpoints, "depths", depth)
    blocks = (depth - 2) // 6
    assert [one.name for one in chain.cuts] == ["conv1", *(f"layer{stage}.{at}" for stage in (1, 2, 3) for at in range(blocks))]
    assert len(chain.cuts) == {20: 10, 32: 16, 44: 22, 56: 28}[depth]
    assert [one.shape for one in chain.cuts] == [(16, 32, 32)] * (blocks + 1) + [(32, 16, 16)] * blocks + [(64, 8, 8)] * blocks
    wanted = next(iter(task.outputs(task.module.state_dict())))
    given = next(iter(chain.task(task).outputs(chain.state_dict())))
    assert torch.equal(given, wanted), "the parts in a row are the network"
    assert (wanted.argmax(1) == task.batches[0][1]).double().mean() > 0.8, "which knows what it sees"  # type: ignore[index]


@pytest.mark.parametrize("depth", [20, pytest.param(56, marks=pytest.mark.slow)])
def test_the_stitch_to_itself_preserves_the_function(real_checkpoints: Path, depth: int) -> None:
    chain, task = chain_and_task(real_checkpoints, "depths", depth)
    inputs = task.batches[0][0]  # type: ignore[index]
    pairs = [(at, at) for at in range(len(chain.cuts))]
    found = fit_stitches(chain, chain, task, pairs, settings={"ridge": 0.0})
    with torch.no_grad():
        wanted = chain(inputs)
        for pair, stitch in found.items():
            assert torch.allclose(stitched(chain, chain, stitch, pair)(inputs), wanted, atol=1e-4), chain.cuts[pair[0]].name
    fits = fit_error(chain, chain, task, pairs)
    lost = {chain.cuts[at].name: chain.cuts[at].units - fit.rank for (at, _), fit in fits.items()}
    assert {name: count for name, count in lost.items() if count} == LOST[depth]


@pytest.mark.slow
def test_neighbours_in_the_family_fit_each_other(real_checkpoints: Path) -> None:
    (small, task), (large, _) = (chain_and_task(real_checkpoints, "depths", depth) for depth in DEPTHS[:2])
    data = images(real_checkpoints, "depths")
    ends = [(0, 0), (3, 5), (6, 10), (9, 15)]  # behind the stem and the last blocks of each stage
    controls = [(-1, b) for _, b in ends]
    fits = fit_error(small, large, Task.classification(task.module, data.inputs, data.classes), [*ends, *controls])
    assert [small.cuts[a].name for a, _ in ends] == ["conv1", "layer1.2", "layer2.2", "layer3.2"]
    assert all(fits[one].error < 0.8 for one in ends), "of what is held out"
    assert all(fits[one].error < fits[control].error - 0.2 for one, control in zip(ends, controls, strict=True)), (
        "and not as the input does"
    )


@pytest.mark.slow
@pytest.mark.parametrize("pair", list(pairwise(DEPTHS)))
def test_a_larger_network_takes_over_from_a_smaller_one(real_checkpoints: Path, pair: tuple[int, int]) -> None:
    (small, _), (large, _) = (chain_and_task(real_checkpoints, "depths", depth) for depth in pair)
    data = images(real_checkpoints, "depths")
    halves = [Task.classification(large, data.inputs[part], data.classes[part]) for part in (slice(50), slice(50, None))]
    cuts = len(small.cuts) // 3 * 2, len(large.cuts) // 3 * 2  # the last blocks of the second stage
    stitch = fit_stitches(small, large, halves[0], [cuts])[cuts]
    [(inputs, _)] = halves[1].batches
    with torch.no_grad():
        said, wanted, seen = (net(inputs).argmax(1) for net in (stitched(small, large, stitch, cuts), large, small))
    assert (said == wanted).double().mean() > 0.6 and (said == seen).double().mean() > 0.6


def test_twelve_seeds_of_one_shape_are_cut_behind_every_convolution(real_checkpoints: Path) -> None:
    chain, _ = chain_and_task(real_checkpoints, "tiny10", 0)
    assert [one.name for one in chain.cuts] == [f"conv{at}" for at in range(1, 9)]
    assert [one.units for one in chain.cuts] == [16, 16, 32, 32, 32, 64, 64, 64]
