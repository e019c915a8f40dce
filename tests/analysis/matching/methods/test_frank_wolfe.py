"""Frank-Wolfe on all groups at once: what it recovers, that it climbs, and that it never returns less than a start."""

import itertools

import pytest
import torch
from torch import Tensor

from tests.analysis.matching.networks import ARCHITECTURES, chain, draw, heads, noisy, residual
from weightspace.analysis.matching import match
from weightspace.analysis.matching.family import Rules
from weightspace.analysis.matching.methods.frank_wolfe import STARTS, _Hull, highest
from weightspace.analysis.matching.pair import Pair
from weightspace.errors import UnknownNameError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act

TINY = SymmetrySpec.parse({"up": "h 3", "mix": "h h'", "down": "g h'", "out": "2 g'"}, sizes={"h": 4, "g": 3})


def inner(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return sum(float((a[name] * b[name]).double().sum()) for name in a)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_planted_elements_are_recovered(name: str, generator: torch.Generator) -> None:
    spec = ARCHITECTURES[name]
    a = draw(spec, generator)
    planted = spec.random(generator, discrete=True)
    found = match(a, noisy(act(planted, a), 0.3, generator), spec, "frank_wolfe")
    assert (found.element @ planted).is_identity


@pytest.mark.parametrize("start", ["barycenter", "identity"])
@pytest.mark.parametrize("name", ["chain", "odd chain"])
def test_the_descent_alone_recovers_them(name: str, start: str, generator: torch.Generator) -> None:
    spec = ARCHITECTURES[name]
    a = draw(spec, generator)
    planted = spec.random(generator, discrete=True)
    found = match(a, act(planted, a), spec, "frank_wolfe", starts=[start], max_sweeps=0)
    assert (found.element @ planted).is_identity


@pytest.mark.parametrize("name", ["chain", "odd chain", "residual"])
@pytest.mark.parametrize("start", ["barycenter", "identity"])
def test_no_step_falls_on_the_hull(name: str, start: str, generator: torch.Generator) -> None:
    spec = ARCHITECTURES[name]
    pair = Pair.of(draw(spec, generator), draw(spec, generator), spec)
    signed = Rules.of(spec, matrices=False).signed
    points: dict[str, Tensor] = {}
    for group in spec.movable:
        centre = torch.full((group.size, group.size), 0.0 if group.name in signed else 1 / group.size).double()
        points[group.name] = centre if start == "barycenter" else torch.eye(group.size).double()
    hull = _Hull(pair, Rules.of(spec, matrices=False), {})
    heights = [float(hull.value(points))]
    for _ in range(12):
        points = dict(hull.ascend(points, 1).points)
        heights.append(float(hull.value(points)))
    assert all(later >= earlier - 1e-4 for earlier, later in itertools.pairwise(heights))
    assert heights[-1] > heights[0] + 1


@pytest.mark.parametrize("seed", range(3))
def test_tiny_networks_reach_the_best_of_all_permutations(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = draw(TINY, generator), draw(TINY, generator)
    pairs = itertools.product(itertools.permutations(range(4)), itertools.permutations(range(3)))
    best = max(inner(a, act(TINY.element({"h": list(h), "g": list(g)}), b)) for h, g in pairs)
    found = match(a, b, TINY, "frank_wolfe")
    assert found.objective[-1] <= best + 1e-4
    assert found.objective[-1] >= 0.97 * best
    assert found.objective[-1] == pytest.approx(inner(a, act(found.element, b)), rel=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_start_gives_less_than_its_own_element(name: str, generator: torch.Generator) -> None:
    spec = ARCHITECTURES[name]
    a, b = draw(spec, generator), draw(spec, generator)
    by_weights, by_nothing = match(a, b, spec).objective[-1], Pair.of(a, b, spec).value({})
    found = match(a, b, spec, "frank_wolfe")
    assert len(found.restarts) == len(STARTS)
    assert min(found.restarts) >= by_nothing
    assert found.objective[-1] >= by_weights - 1e-3
    assert all(later >= earlier for earlier, later in itertools.pairwise(found.objective))


def test_all_groups_at_once_find_more_than_one_after_another() -> None:
    gains = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        a, b = draw(residual(), generator), draw(residual(), generator)
        gains.append(match(a, b, residual(), "frank_wolfe").objective[-1] - match(a, b, residual()).objective[-1])
    assert min(gains) > -1e-3 and max(gains) > 1


def test_matrices_are_found_where_they_are_allowed(generator: torch.Generator) -> None:
    spec = SymmetrySpec.parse(
        {"up": "m 9", "in": "d 9", "down": "d m'", "out": "9 d'"}, groups={"m": {"size": 5}, "d": {"size": 6, "symmetry": "orthogonal"}}
    )
    a = draw(spec, generator)
    b = act(spec.random(generator), a)
    found = match(a, b, spec, "frank_wolfe", matrices=True)
    assert found.l2_after < 1e-3 * found.l2_before


def test_the_same_generator_finds_the_same_element(generator: torch.Generator) -> None:
    a, b = draw(chain(), generator), draw(chain(), generator)
    one, two = (match(a, b, chain(), "frank_wolfe", generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert one.restarts == two.restarts
    assert (one.element @ two.element.inverse()).is_identity


def test_stop_reasons_are_named(generator: torch.Generator) -> None:
    a, b = draw(chain(), generator), draw(chain(), generator)
    assert match(a, b, chain(), "frank_wolfe", starts=["identity"], max_steps=1).stopped.startswith("stopped after 1 steps, then")
    assert "no vertex rises after" in match(a, b, chain(), "frank_wolfe").stopped
    nested = SymmetrySpec.parse({"q": "(h k) 6"}, groups={"h": {"size": 3}, "k": {"size": 4, "per": "h"}})
    a, b = draw(nested, generator), draw(nested, generator)
    assert match(a, b, nested, "frank_wolfe").stopped == "all groups are nested, then no family could gain"


def test_nested_families_are_solved(generator: torch.Generator) -> None:
    a = draw(heads(), generator)
    planted = heads().random(generator, discrete=True)
    assert (match(a, act(planted, a), heads(), "frank_wolfe", starts=["identity"]).element @ planted).is_identity


@pytest.mark.parametrize(
    ("coefficients", "where"), [([0, 1, -1], 0.5), ([0, 0, 0, 1], 1.0), ([3, -1], 0.0), ([0, 0, 3, -2.5], 0.8), ([1, -4, 3.5], 0.0)]
)
def test_the_highest_point_of_a_polynomial(coefficients: list[float], where: float) -> None:
    def curve(t: float) -> float:
        return sum(c * t**k for k, c in enumerate(coefficients))

    assert highest(curve, len(coefficients) - 1) == pytest.approx(where)


def test_unknown_starts_are_refused(generator: torch.Generator) -> None:
    a = draw(chain(), generator)
    with pytest.raises(UnknownNameError, match="no start named 'baricenter'; did you mean 'barycenter'"):
        match(a, a, chain(), "frank_wolfe", starts=["baricenter"])
