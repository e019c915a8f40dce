import pytest
import torch

from weightspace.analysis.layers import Layer
from weightspace.analysis.spectra import Spectrum
from weightspace.errors import AnalysisError


def of(tensor: torch.Tensor, **options: object) -> Spectrum:
    kind = "kernel" if tensor.ndim > 2 else "dense"
    return Spectrum.of(Layer("w", kind, tuple(tensor.shape)), tensor, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(8, 5), (5, 8), (6, 6), (1, 7), (7, 1), (4, 3, 3, 3), (4, 3, 5)])
def test_values_are_those_of_the_whole_decomposition(shape: tuple[int, ...], generator: torch.Generator) -> None:
    tensor = torch.randn(shape, generator=generator)
    values = of(tensor).values
    assert values.dtype == torch.float64
    torch.testing.assert_close(values, torch.linalg.svdvals(tensor.flatten(1).double()), rtol=1e-6, atol=0)


def test_pooled_slices_are_those_of_each_cell(generator: torch.Generator) -> None:
    kernel = torch.randn(4, 3, 2, 3, generator=generator)
    spectrum = of(kernel, slices="pooled")
    each = torch.cat([torch.linalg.svdvals(kernel[:, :, row, column].double()) for row in range(2) for column in range(3)])
    torch.testing.assert_close(spectrum.values, each.sort(descending=True).values)
    assert spectrum.size == (4, 3)
    assert of(kernel[:, :, 0, 0], slices="pooled").values.tolist() == of(kernel[:, :, 0, 0]).values.tolist()


def test_keras_kernels_have_the_same_spectrum_either_way(generator: torch.Generator) -> None:
    kernel = torch.randn(4, 3, 2, 3, generator=generator)
    stored = kernel.permute(2, 3, 1, 0).contiguous()
    other = Spectrum.of(Layer("w", "kernel", (2, 3, 3, 4), is_transposed=True), stored)
    torch.testing.assert_close(other.kernel, kernel)
    torch.testing.assert_close(other.values, of(kernel).values)
    pooled = Spectrum.of(Layer("w", "kernel", (2, 3, 3, 4), is_transposed=True), stored, slices="pooled")
    torch.testing.assert_close(pooled.values, of(kernel, slices="pooled").values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_reported(bad: float) -> None:
    tensor = torch.ones(3, 4)
    tensor[1, 2] = bad
    with pytest.raises(AnalysisError, match="layer 'w' has 1 of 12 values that are NaN or infinite, expected finite ones; leave it out"):
        of(tensor)


def test_large_finite_values_are_no_infinities() -> None:
    assert of(torch.full((3, 4), 3e38)).values[0] == pytest.approx(3e38 * 12**0.5, rel=1e-6)


@pytest.mark.parametrize("rank", [1, 3])
def test_what_rounding_made_is_zero(rank: int, generator: torch.Generator) -> None:
    left, right = (torch.randn(40, rank, generator=generator) for _ in range(2))
    spectrum = of(left @ right.T)
    assert spectrum.rank() == rank
    assert not spectrum.values[rank:].any()


def test_small_but_true_values_are_kept() -> None:
    values = torch.logspace(0, -5, 6)
    torch.testing.assert_close(of(torch.diag(values)).values, values.double(), rtol=1e-4, atol=0)


def test_narrow_dtypes_are_widened() -> None:
    assert of(torch.eye(3, dtype=torch.bfloat16)).values.tolist() == [1, 1, 1]


def test_known_values_are_taken() -> None:
    assert of(torch.eye(2), known=torch.tensor([5.0, 4.0])).values.tolist() == [5, 4]


def test_shuffling_keeps_the_entries_and_follows_the_generator(generator: torch.Generator) -> None:
    spectrum = of(torch.randn(6, 5, generator=generator))
    first = spectrum.shuffled(torch.Generator().manual_seed(1))
    assert first is spectrum.shuffled(torch.Generator().manual_seed(1))
    assert first.matrix.flatten().sort().values.tolist() == spectrum.matrix.flatten().sort().values.tolist()
    going_on = torch.Generator().manual_seed(1)
    one, two = spectrum.shuffled(going_on), spectrum.shuffled(going_on)
    assert one is first
    assert two.values.tolist() != one.values.tolist()
    fresh = of(spectrum.matrix)
    torch.testing.assert_close(fresh.shuffled(torch.Generator().manual_seed(1)).values, first.values)


def test_shuffling_leaves_entries_in_their_cell(generator: torch.Generator) -> None:
    kernel = torch.randn(4, 3, 2, 2, generator=generator)
    kernel[:, :, 0, 0] = 0
    moved = of(kernel, slices="pooled").shuffled(generator)
    assert moved.slices == "pooled"
    assert len(moved.values) == 12
    assert sum(not bool(one.any()) for one in moved.matrices) == 1
    torch.testing.assert_close((moved.matrices**2).sum((1, 2)), (of(kernel, slices="pooled").matrices ** 2).sum((1, 2)))
