"""Soft rank by the law of Marchenko and Pastur."""

import math

from weightspace.analysis.measure import measure
from weightspace.analysis.spectra.marchenko_pastur import fitted
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("mp_softrank", of="matrix", reference="Martin and Mahoney, arXiv:1810.01075, equation 10")
def mp_softrank(spectrum: Spectrum, *, fit: str = "median") -> float:
    """Edge of the noise over the largest eigenvalue: 1 for noise, near 0 for strong directions; not a number for a matrix of zeros.

    Args:
        spectrum: of the layer.
        fit: see `marchenko_pastur`; WeightWatcher's is `density`.
    """
    if spectrum.is_zero:
        return math.nan
    return fitted(spectrum.eigenvalues.cpu().numpy(), spectrum.size, fit).edge / float(spectrum.eigenvalues[0])
