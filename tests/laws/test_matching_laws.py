"""What every method of matching promises, whatever it is called."""

import inspect
import itertools
from typing import Any

import pytest
import torch

from tests.analysis.matching.trained import Trained, trained
from weightspace.analysis.matching.match import match, methods
from weightspace.symmetry import act

QUICK = {"steps": 10, "start": "weight"}  # where a method has such options


@pytest.fixture(params=["tanh", "cnn", "attention"])
def net(request: pytest.FixtureRequest) -> Trained:
    return trained(request.param)


def options_of(method: str, net: Trained) -> dict[str, Any]:
    """The task, where a method asks for one, and fewer steps than it would take."""
    known = inspect.signature(methods[method]).parameters
    return {name: value for name, value in {"task": net.task, **QUICK}.items() if name in known}


@pytest.mark.parametrize("method", methods)
def test_a_planted_element_is_recovered(method: str, net: Trained, generator: torch.Generator) -> None:
    planted = net.spec.random(generator, discrete=True)
    found = match(net.a, act(planted, net.a), net.spec, method, **options_of(method, net))
    assert (found.element @ planted).is_identity


@pytest.mark.parametrize("method", methods)
def test_a_network_matches_itself_as_it_is(method: str, net: Trained) -> None:
    assert match(net.a, net.a, net.spec, method, **options_of(method, net)).element.is_identity


@pytest.mark.parametrize("method", methods)
def test_matching_is_sound(method: str, net: Trained) -> None:
    """The objective never falls, the function of b stays, the inputs stay, and the same chance gives the same element."""
    a, b = ({name: tensor.clone() for name, tensor in weights.items()} for weights in (net.a, net.b))
    one, two = (match(a, b, net.spec, method, **options_of(method, net)) for _ in range(2))
    assert all(later >= earlier for earlier, later in itertools.pairwise(one.objective))
    assert one.objective[-1] == max(one.restarts)
    moved = next(net.task.outputs(act(one.element, b)))
    torch.testing.assert_close(moved, next(net.task.outputs(b)), rtol=1e-4, atol=1e-4)
    for weights, before in ((a, net.a), (b, net.b)):
        assert all(torch.equal(weights[name], before[name]) for name in before)
    assert (one.element @ two.element.inverse()).is_identity
