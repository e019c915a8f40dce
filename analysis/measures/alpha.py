"""Exponent of the tail of the eigenvalues."""

import math

from weightspace.analysis.measure import Values, measure
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("alpha", of="matrix", reference="Martin and Mahoney, arXiv:1810.01075; Clauset et al., arXiv:0706.1062, equations 3.1 and 3.9")
def alpha(spectrum: Spectrum) -> Values:
    """Exponent of the power law that the largest eigenvalues follow, and how well they do.

    Beside it: `n` eigenvalues in the tail, `xmin` where it begins, `D` its distance from the law, `sigma` the standard error that independent
    values would have. Not a number where there are fewer than eight eigenvalues or all are alike. Few values, or a large D, say that
    the number means little; see `alpha_interval` for what chance does to it.
    """
    tail = spectrum.power_law
    if tail is None:
        return {"": math.nan, "n": 0, "xmin": math.nan, "D": math.nan, "sigma": math.nan}
    return {"": tail.alpha, "n": tail.n, "xmin": tail.xmin, "D": tail.distance, "sigma": tail.sigma}
