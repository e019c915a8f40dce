"""Sinkhorn re-basin: what it recovers by each objective, and what it says."""

import itertools

import pytest
import torch
from torch import Tensor

from tests.analysis.matching.networks import ARCHITECTURES, chain, draw, noisy
from tests.analysis.matching.trained import NETWORKS, trained
from weightspace.analysis.matching import match
from weightspace.analysis.matching.midpoint import path_loss
from weightspace.errors import TaskError, UnknownNameError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act

TINY = SymmetrySpec.parse({"up": "h 3", "mix": "h h'", "down": "2 h'"}, sizes={"h": 4})


def inner(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return sum(float((a[name] * b[name]).double().sum()) for name in a)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_planted_elements_are_recovered_from_weights(name: str, generator: torch.Generator) -> None:
    spec = ARCHITECTURES[name]
    a = draw(spec, generator)
    planted = spec.random(generator, discrete=True)
    found = match(a, noisy(act(planted, a), 0.3, generator), spec, "sinkhorn", steps=50)
    assert (found.element @ planted).is_identity


@pytest.mark.parametrize("objective", ["midpoint", "path"])
@pytest.mark.parametrize("name", NETWORKS)
def test_planted_elements_are_recovered_from_losses_where_it_leans_to_weights(
    name: str, objective: str, generator: torch.Generator
) -> None:
    net = trained(name)
    planted = net.spec.random(generator, discrete=True)
    b = act(planted, net.a)
    found = match(net.a, b, net.spec, "sinkhorn", task=net.task, objective=objective, start="weight", steps=2)
    assert (found.element @ planted).is_identity


@pytest.mark.parametrize("objective", ["weight", "midpoint"])
def test_eight_bits_are_matched_as_the_values_that_they_hold(objective: str) -> None:
    net = trained("relu")
    narrow = [{name: tensor.to(torch.float8_e4m3fn) for name, tensor in one.items()} for one in (net.a, net.b)]
    wide = [{name: tensor.float() for name, tensor in one.items()} for one in narrow]
    one, other = (match(a, b, net.spec, "sinkhorn", task=net.task, objective=objective, steps=3) for a, b in (narrow, wide))
    assert (one.element @ other.element.inverse()).is_identity and one.objective == pytest.approx(other.objective)


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_the_midpoint_falls_below_that_of_weight_matching(name: str) -> None:
    net = trained(name)
    found = match(net.a, net.b, net.spec, "sinkhorn", task=net.task, objective="midpoint", steps=60)
    reached = path_loss(net.a, act(found.element, net.b), net.task)
    assert -found.objective[-1] == pytest.approx(reached, rel=1e-5)
    assert reached < path_loss(net.a, act(match(net.a, net.b, net.spec).element, net.b), net.task)


@pytest.mark.parametrize("seed", range(2))
def test_tiny_networks_reach_the_best_of_all_permutations(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = draw(TINY, generator), draw(TINY, generator)
    best = max(inner(a, act(TINY.element({"h": list(order)}), b)) for order in itertools.permutations(range(4)))
    found = match(a, b, TINY, "sinkhorn", restarts=3, steps=50, check_every=5)
    assert found.objective[-1] == pytest.approx(best, rel=1e-5)
    assert len(found.restarts) == 3


def test_the_objective_is_that_of_weight_matching(generator: torch.Generator) -> None:
    spec = chain()
    a, b = draw(spec, generator), draw(spec, generator)
    found = match(a, b, spec, "sinkhorn", steps=40)
    moved, counted = act(found.element, b), [name for name in spec.tensors if name != "3.bias"]
    assert found.objective[-1] == pytest.approx(inner({n: a[n] for n in counted}, moved), rel=1e-5)
    assert all(later >= earlier for earlier, later in itertools.pairwise(found.objective))


def test_leaning_to_weight_matching_is_never_worse_than_it(generator: torch.Generator) -> None:
    spec = chain()
    a, b = draw(spec, generator), draw(spec, generator)
    assert match(a, b, spec, "sinkhorn", start="weight", steps=20).objective[-1] >= match(a, b, spec).objective[-1] - 1e-3


def test_the_same_generator_finds_the_same_element(generator: torch.Generator) -> None:
    spec = chain()
    a, b = draw(spec, generator), draw(spec, generator)
    one, two = (match(a, b, spec, "sinkhorn", steps=20, restarts=2, generator=torch.Generator().manual_seed(5)) for _ in range(2))
    assert one.restarts == two.restarts
    assert (one.element @ two.element.inverse()).is_identity


def test_nested_families_are_matched_by_weights_and_said_to_be(generator: torch.Generator) -> None:
    spec = SymmetrySpec.parse({"q": "(head dk) 6", "k": "(head dk') 6"}, groups={"head": {"size": 3}, "dk": {"size": 4, "per": "head"}})
    a, b = draw(spec, generator), draw(spec, generator)
    found = match(a, b, spec, "sinkhorn")
    assert found.stopped == "no group to relax, all are nested"
    assert found.objective[-1] == pytest.approx(match(a, b, spec).objective[-1])


def test_what_cannot_be_is_refused() -> None:
    net = trained("relu")
    with pytest.raises(UnknownNameError, match="no Sinkhorn objective named 'midpoin'; did you mean 'midpoint'"):
        match(net.a, net.b, net.spec, "sinkhorn", objective="midpoin", task=net.task)
    with pytest.raises(UnknownNameError, match="no start named 'weights'; did you mean 'weight'"):
        match(net.a, net.b, net.spec, "sinkhorn", start="weights")
    with pytest.raises(TaskError, match="objective 'path' needs a loss, and there is no task; give one, or objective 'weight'"):
        match(net.a, net.b, net.spec, "sinkhorn", objective="path")
