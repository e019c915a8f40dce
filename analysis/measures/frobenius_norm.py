"""Frobenius norm."""

import torch

from weightspace.analysis.measure import measure
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("frobenius_norm", of="matrix")
def frobenius_norm(spectrum: Spectrum) -> float:
    """Root of the sum of all squares, in float64."""
    return float(torch.linalg.vector_norm(spectrum.matrix, dtype=torch.float64))
