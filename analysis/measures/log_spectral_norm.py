"""Logarithm of the spectral norm."""

from weightspace.analysis.measure import measure
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("log_spectral_norm", of="matrix", reference="Martin, Peng and Mahoney, arXiv:2002.06716, equation 6")
def log_spectral_norm(spectrum: Spectrum) -> float:
    """Decimal logarithm of the largest eigenvalue, the squared spectral norm; not finite for a matrix of zeros."""
    return float(spectrum.eigenvalues[0].log10())
