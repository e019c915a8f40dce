import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from weightspace.analysis.spectra.convolution import operator_norm
from weightspace.errors import AnalysisError


def circular(kernel: Tensor, image: tuple[int, int], groups: int = 1) -> float:
    """The norm of the map itself, written out as a matrix."""
    inputs = kernel.shape[1] * groups
    basis = torch.eye(inputs * image[0] * image[1], dtype=torch.float64).reshape(-1, inputs, *image)
    rows, columns = kernel.shape[2:]
    padded = basis.repeat(1, 1, 3, 3)[..., image[0] : 2 * image[0] + rows - 1, image[1] : 2 * image[1] + columns - 1]
    return float(torch.linalg.matrix_norm(F.conv2d(padded, kernel.double(), groups=groups).flatten(1), 2))


def zero_padded(kernel: Tensor, image: int, generator: torch.Generator) -> float:
    """The norm of the map with zeros around the image, by power iteration."""
    padding = kernel.shape[-1] // 2
    x = torch.randn(1, kernel.shape[1], image, image, generator=generator, dtype=torch.float64)
    for _ in range(500):
        x = F.conv_transpose2d(F.conv2d(x / x.norm(), kernel, padding=padding), kernel, padding=padding)
    return float(x.norm().sqrt())


@pytest.mark.parametrize(
    ("shape", "image"), [((3, 2, 3, 3), (6, 6)), ((2, 4, 1, 3), (5, 4)), ((4, 1, 5, 5), (7, 6)), ((2, 2, 3, 3), (2, 3))]
)
def test_is_the_norm_of_the_circular_map(shape: tuple[int, ...], image: tuple[int, int], generator: torch.Generator) -> None:
    kernel = torch.randn(shape, generator=generator)
    if shape[2] <= image[0]:
        assert operator_norm(kernel, image) == pytest.approx(circular(kernel, image), rel=1e-9)
    else:  # the kernel lies around the image: the same map as that of the folded kernel
        folded = torch.zeros(2, 2, 2, 3)
        for row in range(3):
            folded[:, :, row % 2] += kernel[:, :, row]
        assert operator_norm(kernel, image) == pytest.approx(circular(folded, image), rel=1e-6)


def test_groups_are_maps_of_their_own(generator: torch.Generator) -> None:
    kernel = torch.randn(4, 2, 3, 3, generator=generator)
    assert operator_norm(kernel, (5, 5), groups=2) == pytest.approx(circular(kernel, (5, 5), groups=2), rel=1e-9)


def test_beside_the_zero_padded_map_and_the_reshaped_matrix(generator: torch.Generator) -> None:
    kernel = torch.randn(6, 5, 3, 3, generator=generator, dtype=torch.float64)
    true = zero_padded(kernel, 16, generator)
    reshaped = float(torch.linalg.matrix_norm(kernel.flatten(1), 2))
    assert true <= operator_norm(kernel, (18, 18)) * (1 + 1e-9)  # padding makes the image two larger
    assert operator_norm(kernel, (16, 16)) == pytest.approx(true, rel=0.05)
    assert operator_norm(kernel, (16, 16)) <= 3 * reshaped  # the root of the number of cells
    assert abs(reshaped / true - 1) > 0.2  # so that taking one for the other would be wrong


def test_without_cells_it_is_the_spectral_norm(generator: torch.Generator) -> None:
    matrix = torch.randn(4, 7, generator=generator)
    assert operator_norm(matrix, ()) == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-5)


def test_one_axis_and_zeros(generator: torch.Generator) -> None:
    assert operator_norm(torch.zeros(2, 3, 5), (9,)) == 0
    assert operator_norm(torch.tensor([[[1.0, -1.0]]]), (8,)) == pytest.approx(2)  # of the frequency that alternates


def test_an_image_that_does_not_fit_is_refused() -> None:
    kernel = torch.ones(4, 2, 3, 3)
    with pytest.raises(AnalysisError, match=r"image of shape \[5\] does not fit a kernel with cells \[3, 3\]; give 2 positive sizes"):
        operator_norm(kernel, (5,))
    with pytest.raises(AnalysisError, match=r"image of shape \[0, 5\]"):
        operator_norm(kernel, (0, 5))
    with pytest.raises(AnalysisError, match="4 outputs do not divide into 3 groups"):
        operator_norm(kernel, (5, 5), groups=3)
