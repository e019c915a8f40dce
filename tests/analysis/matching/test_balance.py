"""Balance: equal norms on both sides of every unit, one point for a whole orbit."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.analysis.matching.networks import chain, draw
from weightspace.analysis.matching import match
from weightspace.analysis.matching.balance import balance
from weightspace.errors import SymmetryError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import Symmetry, act


def doubles(spec: SymmetrySpec, generator: torch.Generator) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in draw(spec, generator).items()}


def order_of(element: Symmetry) -> Symmetry:
    return element.spec.element({name: action.index for name, action in element.actions.items()})


def scaled_specs() -> dict[str, SymmetrySpec]:
    """Scales in heads, on both axes of one tensor, with squares, and beside groups that have none."""
    recurrent = SymmetrySpec.parse(
        {"in": "h 5", "step": "h h'", "bias": "h", "out": "3 h'"}, groups={"h": {"size": 6, "symmetry": "scale"}}
    )
    inside = {"size": 4, "per": "head", "symmetry": "scale"}
    heads = SymmetrySpec.parse(
        {"v": "(head dv) 7", "o": "7 (head dv)'", "up": "m 7", "down": "7 m'"},
        groups={"head": {"size": 3}, "dv": inside, "m": {"size": 5}},
    )
    squares = SymmetrySpec.parse(
        {"in": "h 4", "square": "h^2 3", "gate": "h^0 2", "out": "2 h'"}, groups={"h": {"size": 5, "symmetry": "scale"}}
    )
    return {"chain": chain(symmetry="scale"), "recurrent": recurrent, "heads": heads, "squares": squares}


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(sorted(scaled_specs())), st.integers(0, 2**32))
def test_an_orbit_has_one_balance_up_to_order(name: str, seed: int) -> None:
    spec, generator = scaled_specs()[name], torch.Generator().manual_seed(seed)
    x = doubles(spec, generator)
    element = spec.random(generator)
    y = act(element, x)
    left, right = act(order_of(element), act(balance(x, spec), x)), act(balance(y, spec), y)
    for tensor in spec.tensors:
        torch.testing.assert_close(left[tensor], right[tensor], rtol=1e-8, atol=1e-8)


def test_both_sides_of_every_unit_are_equally_large_and_the_function_stays(generator: torch.Generator) -> None:
    spec = chain(symmetry="scale")
    x = doubles(spec, generator)
    found = balance(x, spec)
    y = act(found, x)
    for i in range(3):
        inward = y[f"{i}.weight"].square().sum(1) + y[f"{i}.bias"].square()
        torch.testing.assert_close(inward, y[f"{i + 1}.weight"].square().sum(0))
    assert all(torch.equal(a.index, torch.arange(12)) for a in found.actions.values())
    again = balance(y, spec)
    assert all(float((a.diagonal - 1).abs().max()) < 1e-9 for a in again.actions.values() if a.diagonal is not None)

    def network(w: dict[str, Tensor], v: Tensor) -> Tensor:
        for i in range(4):
            v = F.linear(v if i == 0 else v.relu(), w[f"{i}.weight"], w[f"{i}.bias"])
        return v

    v = torch.randn(5, 6, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(network(dict(y), v), network(x, v))


def test_balance_is_the_least_norm_of_the_orbit(generator: torch.Generator) -> None:
    for spec in scaled_specs().values():
        x = doubles(spec, generator)
        norm = sum(float(t.square().sum()) for t in act(balance(x, spec), x).values())
        for _ in range(5):
            nearby = act(spec.random(generator) @ balance(x, spec), x)
            assert norm < sum(float(t.square().sum()) for t in nearby.values())


def test_dead_units_stay(generator: torch.Generator) -> None:
    spec = chain(4, depth=2, symmetry="scale")
    x = doubles(spec, generator)
    x["0.weight"][1], x["0.bias"][1], x["1.weight"][:, 2] = 0.0, 0.0, 0.0
    scales = balance(x, spec).actions["h0"].diagonal
    assert scales is not None and scales[1] == scales[2] == 1 and scales[0] != 1 != scales[3]


def test_statistics_do_not_count_but_move(generator: torch.Generator) -> None:
    spec = SymmetrySpec.parse(
        {"in": "h 4", "mean": "h", "out": "2 h'"}, groups={"h": {"size": 5, "symmetry": "scale"}}, statistics=["mean"]
    )
    x = doubles(spec, generator)
    found = balance(x, spec)
    scales = found.actions["h"].diagonal
    assert scales is not None
    torch.testing.assert_close(act(found, x)["mean"], x["mean"] * scales)
    x["mean"] *= 100
    torch.testing.assert_close(balance(x, spec).actions["h"].diagonal, scales)


def test_a_spec_without_scales_is_balanced_already(generator: torch.Generator) -> None:
    spec = chain()
    assert balance(draw(spec, generator), spec).is_identity


def test_weights_that_are_not_finite_are_refused(generator: torch.Generator) -> None:
    spec = chain(symmetry="scale")
    x = draw(spec, generator)
    x["1.weight"][0, 0] = float("inf")
    with pytest.raises(SymmetryError, match=r"tensor '1.weight' has values that are not finite; balance needs finite weights"):
        balance(x, spec)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_matching_with_scales_recovers_order_and_scales(noise: float, generator: torch.Generator) -> None:
    spec = chain(16, symmetry="scale")
    a = doubles(spec, generator)
    planted = spec.random(generator)
    noisy = {name: tensor + noise * torch.randn(tensor.shape, generator=generator) for name, tensor in a.items()}
    b = act(planted, noisy)
    found, without = match(a, b, spec, scales=True), match(a, b, spec)
    assert order_of(found.element @ planted).is_identity
    assert found.l2_after < 0.7 * without.l2_after
    if not noise:
        assert found.l2_after < 1e-9 * found.l2_before and without.l2_after > 0.1 * without.l2_before
