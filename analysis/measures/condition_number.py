"""Condition number."""

import math

from weightspace.analysis.measure import Values, measure
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("condition_number", of="matrix")
def condition_number(spectrum: Spectrum) -> Values:
    """The largest singular value over the smallest: infinite where one is zero up to rounding.

    Beside it: `nonzero`, over the smallest that is not zero. Neither is a number for a matrix of zeros.
    """
    rank = spectrum.rank()
    if not rank:
        return {"": math.nan, "nonzero": math.nan}
    nonzero = float(spectrum.values[0] / spectrum.values[rank - 1])
    return {"": nonzero if rank == len(spectrum.values) else math.inf, "nonzero": nonzero}
