"""What every kind of stitch keeps to, whichever it is: the same twice, nothing changed, and a network stitched to itself is itself."""

import inspect
import json
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.analysis.stitching.networks import IMAGES, task, trained
from weightspace.analysis.moments import Moments
from weightspace.analysis.stitching import fit_stitches, stitched, stitches
from weightspace.analysis.stitching.fitting import BIASES, Bias
from weightspace.analysis.stitching.layer import Affine

FOUND = [name for name, one in stitches.items() if not one.is_control]


def moments(x: torch.Tensor, y: torch.Tensor, parts: int = 1) -> Moments:
    made = Moments()
    for left, right in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
        made.add(left, right)
    return made


def samples(units: int, wanted: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(40, units, generator=generator) @ torch.randn(units, units, generator=generator) + 2
    return x, x @ torch.randn(units, wanted, generator=generator) + torch.randn(40, wanted, generator=generator)


def alike(a: Affine, b: Affine, tolerance: float = 1e-6) -> bool:
    return torch.allclose(a.weight, b.weight, atol=tolerance, rtol=1e-5) and torch.allclose(a.bias, b.bias, atol=10 * tolerance, rtol=1e-5)


@pytest.mark.parametrize("name", stitches)
def test_a_kind_has_settings_that_json_can_hold_and_says_what_it_is(name: str) -> None:
    one = stitches[name]
    assert json.loads(json.dumps(one.settings)) == one.settings
    assert inspect.getdoc(one.function) and (one.reference or one.is_control) and one.name == name


@pytest.mark.parametrize("name", stitches)
@settings(max_examples=10)
@given(units=st.integers(1, 6), wanted=st.integers(1, 6), seed=st.integers(0, 99))
def test_a_kind_gives_the_same_twice_in_double_precision_and_changes_nothing(name: str, units: int, wanted: int, seed: int) -> None:
    x, y = samples(units, units if stitches[name].is_square else wanted, seed)
    summed = moments(x, y)
    before = summed.x.cross.clone(), summed.between.cross.clone()
    first, second = (stitches[name](summed, generator=torch.Generator().manual_seed(seed)) for _ in range(2))
    assert alike(first, second, 0.0) and alike(first, stitches[name](moments(x, y), generator=torch.Generator().manual_seed(seed)), 0.0)
    assert first.weight.shape == (y.shape[1], units) and first.bias.shape == (y.shape[1],)
    assert first.weight.dtype == first.bias.dtype == torch.float64
    assert torch.equal(before[0], summed.x.cross) and torch.equal(before[1], summed.between.cross)


@pytest.mark.parametrize("name", stitches)
@settings(max_examples=10)
@given(parts=st.integers(2, 9), seed=st.integers(0, 99))
def test_samples_in_parts_give_what_they_give_at_once(name: str, parts: int, seed: int) -> None:
    x, y = samples(4, 4, seed)
    assert alike(stitches[name](moments(x, y)), stitches[name](moments(x, y, parts)))


@pytest.mark.parametrize("name", FOUND)
@settings(max_examples=10)
@given(shift=st.floats(-50, 50), seed=st.integers(0, 99))
def test_what_is_shifted_on_either_side_is_met_by_the_bias_alone(name: str, shift: float, seed: int) -> None:
    x, y = (one.double() for one in samples(4, 4, seed))
    plain, shifted = stitches[name](moments(x, y)), stitches[name](moments(x + shift, y - 2 * shift))
    assert torch.allclose(plain.weight, shifted.weight, atol=1e-6)
    assert torch.allclose(x @ plain.weight.T + plain.bias - 2 * shift, (x + shift) @ shifted.weight.T + shifted.bias, atol=1e-4)


@pytest.mark.parametrize("name", FOUND)
@settings(max_examples=10)
@given(factor=st.floats(0.01, 100), seed=st.integers(0, 99))
def test_one_factor_of_what_is_wanted_scales_the_map_where_it_has_a_scale(name: str, factor: float, seed: int) -> None:
    x, y = (one.double() for one in samples(4, 4, seed))
    own: dict[str, Any] = {"scale": True} if "scale" in stitches[name].settings else {}
    plain, scaled = stitches[name](moments(x, y), **own), stitches[name](moments(3 * x, factor * y), **own)
    assert torch.allclose(plain.weight * factor / 3, scaled.weight, atol=1e-8 * (1 + factor))


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("family", ["mlp", "cnn", "vit"])
@pytest.mark.parametrize("name", FOUND)
def test_a_network_stitched_to_itself_at_one_cut_is_itself(name: str, family: str, bias: Bias) -> None:
    chain = trained(family)
    full = {"rank": 99} if name == "low_rank" else {}
    found = fit_stitches(chain, chain, task(chain), [(0, 0), (1, 1)], name, bias=bias, settings=full)
    for (at, _), stitch in found.items():
        with torch.no_grad():
            assert torch.allclose(stitched(chain, chain, stitch, (at, at))(IMAGES), chain(IMAGES), atol=1e-5)
            features = chain.run([IMAGES], stop=at)
            assert torch.allclose(stitch(features), features, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "random"])
def test_controls_are_far_from_what_they_replace(name: str) -> None:
    chain = trained("cnn")
    stitch = fit_stitches(chain, chain, task(chain), [(0, 0)], name)[0, 0]
    with torch.no_grad():
        away = (stitched(chain, chain, stitch, (0, 0))(IMAGES) - chain(IMAGES)).abs().max()
    assert (float(away) > 0.1) == stitches[name].is_control
