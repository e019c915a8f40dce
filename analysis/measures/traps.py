"""Correlation traps."""

import math

import torch

from weightspace.analysis.measure import Values, measure
from weightspace.analysis.spectra.marchenko_pastur import by_variance
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("traps", of="matrix", reference="Martin and Mahoney, arXiv:1810.01075, section 5.5; WeightWatcher 0.7.7, num_traps")
def traps(spectrum: Spectrum, *, generator: torch.Generator) -> Values:
    """Eigenvalues above the edge of noise once the entries are in random places: what single large entries, or a mean, bring about.

    Shuffled entries are independent, so their scale is known: it is the root of their mean square, with nothing to fit. Beside the count:
    `edge`, the eigenvalue that noise exceeds once in a hundred matrices, and `largest`, the shuffled matrix's.

    Args:
        spectrum: of the layer.
        generator: shuffles.
    """
    if spectrum.is_zero:
        return {"": 0, "edge": math.nan, "largest": 0.0}
    found = spectrum.shuffled(generator).eigenvalues
    edge = by_variance(found.cpu().numpy(), spectrum.size).threshold
    return {"": int((found > edge).sum()), "edge": edge, "largest": float(found[0])}
