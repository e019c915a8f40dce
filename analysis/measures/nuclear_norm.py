"""Nuclear norm."""

from weightspace.analysis.measure import measure
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("nuclear_norm", of="matrix")
def nuclear_norm(spectrum: Spectrum) -> float:
    """The sum of the singular values, exact; `matrix_nuclear_norm` approximates it without them."""
    return float(spectrum.values.sum())
