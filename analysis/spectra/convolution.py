"""The singular values of a convolution as a linear map of images, by the Fourier transform."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import AnalysisError

_CHUNK = 1 << 22  # elements of transfer matrices that are held at once


def operator_norm(kernel: Float[Tensor, "out inputs *cells"], image: Sequence[int], *, groups: int = 1) -> float:
    """The largest factor by which a convolution with circular padding and stride 1 stretches any image of a size.

    Sedghi, Gupta and Long, "The Singular Values of Convolutional Layers" (arXiv:1805.10408), theorem 6: the map's singular values are those of
    the matrices (out, in) that the kernel's Fourier transform has at the frequencies of the image. Zero padding of images of size n stretches
    no more than circular padding of size `n + cells - 1`; strides, which drop outputs, stretch no more than none.

    Args:
        kernel: as torch's convolutions keep it; without cells, a dense matrix.
        image: rows, columns and so on, a number for each axis of the kernel's cells.
        groups: channels are convolved in so many groups; inputs are those of one.

    Returns:
        The norm, computed in float64; 0 for a kernel of zeros.

    Raises:
        AnalysisError: the image has not the kernel's number of axes, or a size below 1, or groups do not divide the outputs.
    """
    cells = kernel.shape[2:]
    if len(image) != len(cells) or any(length < 1 for length in image):
        raise AnalysisError(
            f"an image of shape {list(image)} does not fit a kernel with cells {list(cells)}; give {len(cells)} positive sizes, one for each axis"
        )
    if groups < 1 or len(kernel) % groups:
        raise AnalysisError(f"{len(kernel)} outputs do not divide into {groups} groups; give the layer's number of groups")
    transfer = _transfer(kernel.double(), tuple(image))
    frequencies, _, inputs = transfer.shape
    per_group = transfer.reshape(frequencies, groups, -1, inputs).flatten(0, 1)
    chunk = max(1, _CHUNK // max(1, per_group[0].numel()))
    return max(_largest(part) for part in torch.split(per_group, chunk))


def _transfer(kernel: Tensor, image: tuple[int, ...]) -> Tensor:
    """The matrices (frequencies, out, in) of the transform; of each pair of conjugates one."""
    if not image:
        return kernel[None]
    wrapped = kernel
    for axis, length in enumerate(image, 2):
        wrapped = _wrapped(wrapped, axis, length)
    axes = tuple(range(2, kernel.ndim))
    transformed: Tensor = torch.fft.rfftn(wrapped, dim=axes)
    return transformed.flatten(2).permute(2, 0, 1)


def _wrapped(kernel: Tensor, axis: int, length: int) -> Tensor:
    """A kernel on an axis of an image: zeros beyond it, and what is longer than the image laid around it."""
    shape = list(kernel.shape)
    at = torch.arange(shape[axis], device=kernel.device) % length
    shape[axis] = length
    return kernel.new_zeros(shape).index_add_(axis, at, kernel)


def _largest(matrices: Tensor) -> float:
    """The largest singular value of a stack, by the smaller of the Gram matrices: exact enough for the largest."""
    wide = matrices.shape[-2] < matrices.shape[-1]
    gram = matrices @ matrices.mH if wide else matrices.mH @ matrices
    return float(torch.linalg.eigvalsh(gram)[..., -1].max().clamp(min=0).sqrt())
