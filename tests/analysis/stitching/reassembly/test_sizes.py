"""Sizes against what runs."""

import pytest
import torch
from torch import nn

from tests.analysis.stitching.reassembly.zoos import mlp, task
from weightspace.analysis.stitching import Affine, Bridge, Stitch
from weightspace.analysis.stitching.costs import flops_of
from weightspace.analysis.stitching.fitting import Bias
from weightspace.analysis.stitching.patchwork import batch_like
from weightspace.analysis.stitching.reassembly.sizes import Size, part_sizes, stitch_size
from weightspace.tracing.cutting import Cut


def test_parts_add_up_to_the_network() -> None:
    chain, batch = mlp(5, 7), batch_like(task().batches)
    sizes = part_sizes(chain, batch)
    assert sizes[0] == Size(2 * 6 * 5, 6 * 5 + 5)
    assert sum(sizes, Size()).flops == flops_of(chain, batch)
    assert sum(sizes, Size()).parameters == sum(one.numel() for one in chain.parameters())


@pytest.mark.parametrize(
    ("source", "target"), [((5,), (7,)), ((4, 6), (3, 6)), ((4, 6), (3, 9)), ((4, 6), (7,)), ((5,), (3, 4)), ((2, 6, 6), (3, 3, 3))]
)
@pytest.mark.parametrize("bias", ["units", "places"])
def test_a_stitch_costs_what_it_runs(source: tuple[int, ...], target: tuple[int, ...], bias: Bias) -> None:
    bridge = Bridge(Cut("a", source, 0), Cut("b", target, 0))
    taken, given = bridge.units
    rows = () if bias == "units" or bridge.positions == 1 else (bridge.positions,)
    stitch = Stitch(bridge, Affine(torch.zeros(given, taken), torch.zeros(*rows, given)))
    size = stitch_size(bridge, bias)
    assert size.parameters == sum(one.numel() for one in stitch.parameters())
    assert size.flops == flops_of(nn.Sequential(stitch), (torch.zeros(2, *source), torch.zeros(2)))
