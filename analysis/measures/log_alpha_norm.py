"""Logarithm of the alpha norm."""

import math

import torch

from weightspace.analysis.measure import measure
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("log_alpha_norm", of="matrix", reference="Martin, Peng and Mahoney, arXiv:2002.06716, equation 8")
def log_alpha_norm(spectrum: Spectrum) -> float:
    """Decimal logarithm of the sum of the eigenvalues to the power of alpha, the tail's exponent; not a number where there is no tail."""
    tail = spectrum.power_law
    if tail is None:
        return math.nan
    return float(torch.logsumexp(tail.alpha * spectrum.eigenvalues.log(), 0)) / math.log(10)
