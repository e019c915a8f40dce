"""Spectral norm."""

from weightspace.analysis.measure import measure
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("spectral_norm", of="matrix")
def spectral_norm(spectrum: Spectrum) -> float:
    """The largest singular value; of a convolution, that of its matrix and not of the map (see `operator_norm`)."""
    return float(spectrum.values[0])
