"""Where weights stand."""

import math

import pytest
import torch

from weightspace.analysis.generation.manifold.coordinates import Coordinates, fourier
from weightspace.analysis.generation.manifold.fields import AxisField, WeightField
from weightspace.metanets.layout import Layout
from weightspace.spec import SymmetrySpec


def test_neurons_stand_in_the_middle_of_their_cells_at_every_width() -> None:
    for size in (1, 4, 7):
        found = Coordinates.of({"h": size}, {"h": 8})
        assert found.positions["h"].tolist() == pytest.approx([(i + 0.5) / size for i in range(size)])
        assert float(found.shares["h"]) == pytest.approx(size / 8)


def test_noise_of_one_moves_neurons_within_their_cells_and_fills_the_line() -> None:
    chance = torch.Generator().manual_seed(0)
    drawn = torch.stack([Coordinates.of({"h": 4}, {"h": 4}, noise=1.0, noisy=["h"], generator=chance).positions["h"] for _ in range(2000)])
    cells = (drawn * 4).floor()
    assert (cells == torch.arange(4.0)).all()
    assert drawn[:, 0].min() < 0.005 and drawn[:, 0].max() > 0.245


def test_only_groups_with_noise_are_moved() -> None:
    found = Coordinates.of({"h": 4, "in": 3}, {"h": 4, "in": 3}, noise=1.0, noisy=["h"], generator=torch.Generator().manual_seed(0))
    still = Coordinates.of({"h": 4, "in": 3}, {"h": 4, "in": 3})
    assert found.positions["in"].equal(still.positions["in"]) and found.shares["in"] == 1
    assert not found.positions["h"].equal(still.positions["h"]) and found.shares["h"] != 1


def test_fourier_features_follow_their_definition() -> None:
    found = fourier(torch.tensor([0.3]), 3)[0].tolist()
    angles = [math.pi * 2**k * 0.3 for k in range(3)]
    assert found == pytest.approx([0.3, *map(math.sin, angles), *map(math.cos, angles)], abs=1e-5)


@pytest.mark.parametrize("axes", ["h in", "h", "h in k 3", "5"])
def test_a_field_gives_every_weight_what_its_own_coordinates_say(axes: str) -> None:
    """Beside a slow computation, one weight at a time."""
    groups = {"in": {"size": 3, "kind": "fixed"}, "k": {"size": 2, "kind": "fixed"}}
    used = {name: group for name, group in groups.items() if name in axes.split()}
    spec = SymmetrySpec.parse({"w": axes}, sizes={"h": 4} if "h" in axes.split() else {}, groups=used)
    layout = Layout.of(spec)
    [slot] = layout.slots
    torch.manual_seed(0)
    field = WeightField(slot, frequencies=2, hidden=5, depth=1)
    full = {name: 2 * group.size for name, group in layout.groups.items()}
    places = Coordinates.of(layout.spec.sizes, full)
    made = field(places)
    assert tuple(made.shape) == layout.shape(slot)
    shares = torch.stack([places.shares[name] for name in slot.groups])
    for at in torch.cartesian_prod(*(torch.arange(n) for n in made.shape[:-1]), torch.tensor([0])).tolist():
        product = torch.ones(5)
        for axis, name, i in zip(field.axes, slot.groups, at, strict=False):
            assert isinstance(axis, AxisField)
            x = torch.relu(axis.start(torch.cat([fourier(places.positions[name], 2)[i], shares])))
            product = product * axis.end(x + torch.relu(axis.layers[0](x)))
        expected = field.out(product)
        for j in slot.sources:
            expected = expected / shares[j]
        torch.testing.assert_close(made[tuple(at[:-1])], expected)
