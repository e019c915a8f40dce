"""Soft permutations: their sums, their gradient, and that hard ones among them act as elements do."""

import pytest
import torch

from tests.analysis.matching.networks import ARCHITECTURES, draw
from weightspace.analysis.matching.pair import Pair
from weightspace.analysis.matching.soft import relaxed_value, sinkhorn, softly
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import act


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_rows_and_columns_add_up_to_one(scale: float, generator: torch.Generator) -> None:
    made = sinkhorn(scale * torch.randn(7, 7, generator=generator, dtype=torch.float64), rounds=5000, tolerance=1e-10)
    for dim in (0, 1):
        torch.testing.assert_close(made.sum(dim), torch.ones(7, dtype=torch.float64), rtol=0, atol=1e-8)
    assert made.min() > 0


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0])
def test_the_implicit_gradient_is_that_of_all_iterations(scale: float, generator: torch.Generator) -> None:
    scores = (scale * torch.randn(5, 5, generator=generator, dtype=torch.float64)).requires_grad_()
    slopes = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    logs = scores
    for _ in range(2000):
        logs = logs - logs.logsumexp(1, keepdim=True)
        logs = logs - logs.logsumexp(0, keepdim=True)
    (expected,) = torch.autograd.grad((logs.exp() * slopes).sum(), scores)
    (found,) = torch.autograd.grad((sinkhorn(scores, rounds=2000, tolerance=1e-13) * slopes).sum(), scores)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


def test_the_gradient_vanishes_at_a_permutation() -> None:
    scores = (200 * torch.eye(4, dtype=torch.float64)[[2, 0, 3, 1]]).requires_grad_()
    (found,) = torch.autograd.grad((sinkhorn(scores) * torch.arange(16.0, dtype=torch.float64).reshape(4, 4)).sum(), scores)
    assert found.abs().max() < 1e-9


@pytest.mark.parametrize("name", ["chain", "odd chain", "residual"])
def test_hard_ones_act_as_elements_do(name: str, generator: torch.Generator) -> None:
    spec = ARCHITECTURES[name]
    a, b = draw(spec, generator), draw(spec, generator)
    element = spec.random(generator, discrete=True)
    matrices = {group: action.as_matrix for group, action in element.actions.items()}
    moved = act(element, b)
    for tensor, values in b.items():
        torch.testing.assert_close(softly(spec, tensor, values, matrices), moved[tensor])
    pair = Pair.of(a, b, spec)
    assert float(relaxed_value(pair, {}, matrices)) == pytest.approx(pair.value(element.actions), rel=1e-6)


def test_signs_do_not_turn_what_they_touch_twice() -> None:
    spec = SymmetrySpec.parse({"variance": "h^2"}, groups={"h": {"size": 2, "symmetry": "sign"}})
    turned = torch.tensor([[0.0, -1.0], [1.0, 0.0]])
    assert softly(spec, "variance", torch.tensor([1.0, 2.0]), {"h": turned}).tolist() == [2.0, 1.0]
