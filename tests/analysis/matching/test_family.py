"""Children of one parent that are never seen apart."""

import pytest
import torch

from weightspace.analysis.matching.family import Rules, solve_family
from weightspace.analysis.matching.pair import Family

INSIDE = Family(("p", "x", "y"), {"p": ("x", "y"), "x": (), "y": ()}, ())


@pytest.mark.parametrize("seed", range(5))
def test_children_seen_only_together_are_found_together(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = torch.randn(2, 3, 4, 50, generator=generator, dtype=torch.float64)
    orders = {"p": torch.tensor([1, 0]), "x": torch.randperm(3, generator=generator), "y": torch.randperm(4, generator=generator)}
    moved = parts[orders["p"]][:, orders["x"]][:, :, orders["y"]]
    kernel = torch.einsum("pxyn,qzwn->pxyqzw", parts, moved)
    found, gain = solve_family(INSIDE, {("p", "x", "y"): kernel}, Rules(frozenset()))
    assert gain == pytest.approx(float(parts.square().sum()))
    assert torch.equal(found["p"].index, orders["p"].argsort())
    for name in ("x", "y"):
        assert torch.equal(found[name].index, orders[name].argsort().expand(2, -1))


def test_three_children_seen_only_together_begin_somewhere() -> None:
    generator = torch.Generator().manual_seed(0)
    family = Family(("p", "x", "y", "z"), {"p": ("x", "y", "z"), "x": (), "y": (), "z": ()}, ())
    parts = torch.randn(1, 2, 2, 2, 50, generator=generator, dtype=torch.float64)
    kernel = torch.einsum("pxyzn,quvwn->pxyzquvw", parts, parts)
    found, gain = solve_family(family, {("p", "x", "y", "z"): kernel}, Rules(frozenset()))
    assert set(found) == {"p", "x", "y", "z"}
    assert gain == pytest.approx(float(parts.square().sum()))
