"""The order of the neurons in which weights vary least."""

import itertools

import pytest
import torch

from weightspace.analysis.generation.manifold.smoothing import distances, shortest_path, smoothing, total_variation
from weightspace.metanets.layout import Layout
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act

SPEC = SymmetrySpec.parse(
    {"fc1.weight": "a in", "fc1.bias": "a", "fc2.weight": "b a'", "fc3.weight": "out b'"},
    sizes={"a": 12, "b": 7},
    groups={"in": {"size": 5, "kind": "fixed"}, "out": {"size": 3, "kind": "fixed"}},
)


def weights(spec: SymmetrySpec, seed: int = 0) -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {name: torch.randn(spec.shape(name), generator=chance) for name in spec.tensors}


def test_smoothing_keeps_the_function() -> None:
    state, x = weights(SPEC), torch.randn(9, 5, generator=torch.Generator().manual_seed(1))

    def run(state: dict[str, torch.Tensor]) -> torch.Tensor:
        hidden = torch.relu(x @ state["fc1.weight"].T + state["fc1.bias"])
        return torch.relu(hidden @ state["fc2.weight"].T) @ state["fc3.weight"].T

    element = smoothing(state, Layout.of(SPEC))
    assert not element.is_identity
    torch.testing.assert_close(run(act(element, state)), run(state))


def test_smoothing_lessens_the_total_variation_of_every_tensor_that_touches_a_group() -> None:
    state, layout = weights(SPEC), Layout.of(SPEC)
    moved = act(smoothing(state, layout), state)

    def variation(state: dict[str, torch.Tensor]) -> float:
        first = [state["fc1.weight"].diff(dim=0), state["fc1.bias"].diff(), state["fc2.weight"].diff(dim=1)]
        return float(sum(part.double().abs().sum() for part in [*first, state["fc2.weight"].diff(dim=0), state["fc3.weight"].diff(dim=1)]))

    assert total_variation(state, layout) == pytest.approx(variation(state))
    assert total_variation(moved, layout) == pytest.approx(variation(moved))
    assert variation(moved) < 0.9 * variation(state)


def test_smoothing_finds_the_order_that_a_smooth_network_had() -> None:
    line = torch.linspace(0, 3, 12)[:, None] * torch.tensor([1.0, -2.0, 0.5, 0.0, 1.0]) + 1
    state = {"fc1.weight": line, "fc1.bias": line[:, 0], "fc2.weight": torch.zeros(7, 12), "fc3.weight": torch.zeros(3, 7)}
    shuffled = act(SPEC.element({"a": torch.randperm(12, generator=torch.Generator().manual_seed(3))}), state)
    found = act(smoothing(shuffled, Layout.of(SPEC), ["a"]), shuffled)["fc1.weight"]
    assert found.equal(line) or found.equal(line.flip(0))


def test_groups_that_are_left_out_and_fixed_ones_stay() -> None:
    assert set(smoothing(weights(SPEC), Layout.of(SPEC), ["a", "in"]).actions) == {"a"}
    assert smoothing(weights(SPEC), Layout.of(SPEC), []).is_identity


def test_heads_and_the_units_of_each_head_are_ordered() -> None:
    spec = SymmetrySpec.parse(
        {"up": "(head unit) d", "down": "d (head unit)'"},
        sizes={"head": 5},
        groups={"unit": {"size": 6, "per": "head"}, "d": {"size": 4, "kind": "fixed"}},
    )
    state, layout = weights(spec), Layout.of(spec)
    element = smoothing(state, layout)
    assert element.actions["unit"].index.shape == (5, 6)
    moved = act(element, state)
    torch.testing.assert_close(moved["down"] @ moved["up"], state["down"] @ state["up"])
    assert total_variation(moved, layout, ["unit"]) < total_variation(state, layout, ["unit"])
    assert total_variation(moved, layout, ["head"]) < min(  # of the other orders of heads whose units are in order
        total_variation(act(spec.element({"head": list(order)}), moved), layout, ["head"])
        for order in itertools.permutations(range(5))
        if order not in ((0, 1, 2, 3, 4), (4, 3, 2, 1, 0))
    )


@pytest.mark.parametrize("cities", [3, 4, 7])
@pytest.mark.parametrize("seed", range(4))
def test_a_path_through_few_cities_is_the_shortest(cities: int, seed: int) -> None:
    points = torch.rand(cities, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    apart = torch.cdist(points, points, p=1)
    found = shortest_path(apart)
    assert sorted(found.tolist()) == list(range(cities))
    best = min(sum(float(apart[a, b]) for a, b in itertools.pairwise(order)) for order in itertools.permutations(range(cities)))
    assert float(apart[found[:-1], found[1:]].sum()) == pytest.approx(best)


def test_a_path_through_many_cities_is_far_shorter_than_a_random_one_and_than_the_nearest_neighbours() -> None:
    points = torch.rand(80, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    apart = torch.cdist(points, points)
    found, tour = shortest_path(apart), [0]
    while len(tour) < 80:
        tour.append(min(set(range(80)) - set(tour), key=lambda city: float(apart[tour[-1], city])))
    length = float(apart[found[:-1], found[1:]].sum())
    assert length < 0.95 * float(apart[tour[:-1], tour[1:]].sum())
    assert length < 0.25 * float(apart.diagonal(1).sum())


@pytest.mark.parametrize("cities", [0, 1, 2])
def test_a_path_through_at_most_two_cities_is_any(cities: int) -> None:
    assert shortest_path(torch.ones(cities, cities)).tolist() == list(range(cities))


def test_distances_are_sums_of_absolute_differences() -> None:
    state = weights(SPEC)
    rows = torch.cat([state["fc1.weight"], state["fc1.bias"][:, None], state["fc2.weight"].T], 1).double()
    torch.testing.assert_close(distances(state, Layout.of(SPEC), "a")[0], (rows[:, None] - rows).abs().sum(-1))
