"""Logarithm of the Frobenius norm."""

from weightspace.analysis.measure import measure
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("log_norm", of="matrix", reference="Martin, Peng and Mahoney, arXiv:2002.06716, equation 5")
def log_norm(spectrum: Spectrum) -> float:
    """Decimal logarithm of the squared Frobenius norm, the sum of the eigenvalues; not finite for a matrix of zeros."""
    return float(spectrum.eigenvalues.sum().log10())
