"""The Matrix Nuclear-Norm: an approximation of the nuclear norm without singular values."""

import torch

from weightspace.analysis.measure import measure
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("matrix_nuclear_norm", of="matrix", reference="Li et al., arXiv:2410.10672, section 3")
def matrix_nuclear_norm(spectrum: Spectrum, *, normalize: bool = False) -> float:
    """The sum of the norms of the largest columns, as many as the shorter side: the L12 norm that stands for the nuclear norm.

    The paper measures hidden states (tokens, features): centred, each row of unit length, the sum divided by the number of rows. `normalize` does the
    same to a weight's rows, its outputs. Rows of zeros stay so, where the paper's code divides by zero. For weights the exact
    `nuclear_norm` costs one decomposition, which other measures share.

    Args:
        spectrum: of the layer.
        normalize: whether to prepare rows and divide as the paper does.
    """
    matrix = spectrum.matrix.double()
    if normalize:
        matrix = torch.nn.functional.normalize(matrix - matrix.mean(0), dim=1)
    norms = torch.linalg.vector_norm(matrix, dim=0).sort(descending=True).values
    total = float(norms[: min(matrix.shape)].sum())
    return total / len(matrix) if normalize else total
