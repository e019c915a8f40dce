"""Effective rank."""

import torch

from weightspace.analysis.measure import measure
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("effective_rank", of="matrix", reference="Roy and Vetterli, EUSIPCO 2007, definition 1")
def effective_rank(spectrum: Spectrum) -> float:
    """The exponential of the entropy of the singular values' shares: as many equal ones would spread as far; 0 for a matrix of zeros.

    Shares are of singular values, `p_i = s_i / sum s`, where `spectral_entropy` takes their squares.
    """
    if spectrum.is_zero:
        return 0.0
    shares = spectrum.values / spectrum.values.sum()
    return float(torch.special.entr(shares).sum().exp())
