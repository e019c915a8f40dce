"""Distance from what chance would have made of the same entries."""

import math

import torch
from torch import Tensor

from weightspace.analysis.measure import Values, measure
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("rand_distance", of="matrix", reference="WeightWatcher 0.7.7, rand_distance, ww_softrank and ww_maxdist")
def rand_distance(spectrum: Spectrum, *, generator: torch.Generator) -> Values:
    """Distance of Jensen and Shannon between the eigenvalues, in order, and those of the matrix with its entries shuffled.

    Each list is divided by its sum, as if it were a distribution over ranks: 0 for noise. Beside it: `softrank`, the shuffled matrix's largest
    eigenvalue over the layer's, and `maxdist`, their difference. Not a number for a matrix of zeros.

    Args:
        spectrum: of the layer.
        generator: shuffles.
    """
    if spectrum.is_zero:
        return {"": math.nan, "softrank": math.nan, "maxdist": 0.0}
    own, random = spectrum.eigenvalues, spectrum.shuffled(generator).eigenvalues
    middle = (own + random) / 2
    divergence = (_divergence(own, middle) + _divergence(random, middle)) / 2
    return {"": max(divergence, 0.0) ** 0.5, "softrank": float(random[0] / own[0]), "maxdist": float(own[0] - random[0])}


def _divergence(p: Tensor, q: Tensor) -> float:
    """Of Kullback and Leibler, in nats, of two lists divided by their sums."""
    p, q = p / p.sum(), q / q.sum()
    return float((torch.xlogy(p, p) - torch.xlogy(p, q)).nansum())
