"""Stable rank."""

from weightspace.analysis.measure import measure
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("stable_rank", of="matrix", reference="Rudelson and Vershynin, arXiv:math/0503442")
def stable_rank(spectrum: Spectrum) -> float:
    """Squared Frobenius norm over squared spectral norm: from 1 to the rank; 0 for a matrix of zeros."""
    return 0.0 if spectrum.is_zero else float(spectrum.eigenvalues.sum() / spectrum.eigenvalues[0])
