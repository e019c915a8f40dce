"""Edge of the law of Marchenko and Pastur."""

import math

from weightspace.analysis.measure import Values, measure
from weightspace.analysis.spectra.marchenko_pastur import fitted
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("marchenko_pastur", of="matrix", reference="Marchenko and Pastur, 1967; Gavish and Donoho, arXiv:1305.5870; Johnstone, 2001")
def marchenko_pastur(spectrum: Spectrum, *, fit: str = "median") -> Values:
    """Where the eigenvalues of noise of the layer's size and scale would end, and how many are beyond that.

    `edge` in eigenvalues, `sigma` of an entry of the noise, `spikes` the eigenvalues above what noise exceeds once in a hundred matrices
    (Tracy and Widom's law). Not a number for a matrix of zeros.

    Args:
        spectrum: of the layer.
        fit: how sigma is found: by the `median` eigenvalue, by the `variance` of all entries, or by least squares to the smoothed `density`
            as WeightWatcher does.
    """
    if spectrum.is_zero:
        return {"edge": math.nan, "sigma": math.nan, "spikes": 0}
    law = fitted(spectrum.eigenvalues.cpu().numpy(), spectrum.size, fit)
    return {"edge": law.edge, "sigma": law.sigma, "spikes": int((spectrum.eigenvalues > law.threshold).sum())}
