"""Codes and levels: what comes back is within half a step, zeros are zeros, bytes are as few as said."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from weightspace.analysis.signatures import QUANTISERS, Grid, extract, quantise
from weightspace.analysis.signatures.packing import pack, packed_size, unpack
from weightspace.errors import AnalysisError, UnknownNameError

BITS = (2, 3, 4, 5, 8, 11, 16)


def back(tensor: Tensor, quantiser: str, bits: int) -> tuple[Grid, Tensor]:
    grid = Grid.of(tensor, quantiser, bits)
    codes = grid.encode(tensor)
    assert 0 <= int(codes.min()) and int(codes.max()) < 2**bits
    return grid, grid.decode(codes).reshape(tensor.shape)


def even(values: Tensor, grid: Grid) -> Tensor:
    """Values where the levels are even, by the paper's words and not by the code's."""
    if grid.quantiser == "log":
        return torch.log2(values.abs())
    return torch.tanh(values / grid.scale) if grid.quantiser == "tanh" else values


@settings(max_examples=30)
@given(bits=st.integers(2, 16), count=st.sampled_from([0, 1, 7, 8, 9, 1000, (1 << 16) + 3]), seed=st.integers(0, 2**32 - 1))
def test_codes_come_back_and_take_as_many_bits_as_said(bits: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, count, np.uint16)
    packed = pack(codes, bits)
    assert len(packed) == packed_size(count, bits) == -(-count * bits // 8)
    np.testing.assert_array_equal(unpack(packed, bits, count), codes)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("quantiser", QUANTISERS)
@pytest.mark.parametrize("zeros", [0, 40])
def test_no_value_moves_by_more_than_half_a_step(quantiser: str, bits: int, zeros: int, generator: torch.Generator) -> None:
    values = torch.randn(500, generator=generator, dtype=torch.float64) * 0.03
    values[:zeros] = 0
    grid, found = back(values, quantiser, bits)
    assert (found[values == 0] == 0).all()
    others = values != 0
    apart = (even(found[others], grid) - even(values[others], grid)).abs()
    assert float(apart.max()) <= grid.step / 2 * (1 + 1e-9) + 1e-12
    if quantiser == "log":
        assert (found.sign() == values.sign()).all()
    assert (found != 0).sum() == others.sum() or quantiser != "log"


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_the_levels_are_those_of_the_paper(bits: int, generator: torch.Generator) -> None:
    values = torch.randn(300, generator=generator, dtype=torch.float64)

    def rounded(v: Tensor, levels: int) -> Tensor:
        return torch.round((v - v.min()) / (v.max() - v.min()) * (levels - 1)) / (levels - 1) * (v.max() - v.min()) + v.min()

    torch.testing.assert_close(back(values, "linear", bits)[1], rounded(values, 2**bits))
    logarithmic = values.sign() * torch.exp2(rounded(values.abs().log2(), 2 ** (bits - 1)))
    torch.testing.assert_close(back(values, "log", bits)[1], logarithmic)


@pytest.mark.parametrize("quantiser", QUANTISERS)
@pytest.mark.parametrize("value", [0.0, 0.25, -3e-5, 1e-30, -1e30])
def test_a_tensor_of_equal_values_is_itself(quantiser: str, value: float) -> None:
    torch.testing.assert_close(back(torch.full((5, 3), value), quantiser, 2)[1].float(), torch.full((5, 3), value), rtol=1e-6, atol=0)


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_an_outlier_does_not_break_the_levels(quantiser: str) -> None:
    values = torch.cat([torch.linspace(-1e-3, 1e-3, 100), torch.tensor([0.0, 1e3])])
    _, found = back(values, quantiser, 16)
    assert torch.isfinite(found).all()
    assert float(found[-1]) == pytest.approx(1e3, rel=1e-5)
    assert float(found[-2]) == 0


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_more_bits_are_nearer(quantiser: str, generator: torch.Generator) -> None:
    values = torch.randn(4000, generator=generator)
    errors = [float((back(values, quantiser, bits)[1] - values).norm()) for bits in (2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3 * errors[0]


def test_tanh_levels_are_best_of_normal_values_at_few_bits(generator: torch.Generator) -> None:
    values = torch.randn(20_000, generator=generator) * 0.01
    linear, tanh = (float((back(values, quantiser, 4)[1] - values).norm()) for quantiser in ("linear", "tanh"))
    assert tanh < 0.85 * linear


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(poison: float) -> None:
    with pytest.raises(AnalysisError, match="expected finite values to quantise, found NaN or infinities; leave this tensor out"):
        Grid.of(torch.tensor([1.0, poison]), "linear", 4)


def test_a_range_beyond_floats_is_refused() -> None:
    with pytest.raises(AnalysisError, match="expected values whose range is finite"):
        Grid.of(torch.tensor([-1.7e308, 1.7e308], dtype=torch.float64), "linear", 4)


@pytest.mark.parametrize("bits", [1, 17])
def test_bits_have_limits(bits: int) -> None:
    with pytest.raises(AnalysisError, match=f"expected 2 to 16 bits, found {bits}"):
        Grid.of(torch.ones(2), "linear", bits)


def test_a_quantiser_is_known() -> None:
    signature = extract({"w": torch.zeros(3)}, {"w": torch.tensor([1.0, 0, 0])}, {"w": torch.ones(3)})
    with pytest.raises(UnknownNameError, match=r"no quantiser named 'logg'; did you mean 'log'\? \(known: linear, log, tanh\)"):
        quantise(signature, 4, "logg")
