"""Exponent of the tail, weighted by the scale of the layer."""

import math

from weightspace.analysis.measure import measure
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("alpha_hat", of="matrix", reference="Martin, Peng and Mahoney, arXiv:2002.06716, equation 7")
def alpha_hat(spectrum: Spectrum) -> float:
    """Alpha times the decimal logarithm of the largest eigenvalue, WeightWatcher's `alpha_weighted`; not a number where there is no tail."""
    tail = spectrum.power_law
    return math.nan if tail is None else tail.alpha * float(spectrum.eigenvalues[0].log10())
