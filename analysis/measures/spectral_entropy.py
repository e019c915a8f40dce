"""Entropy of the eigenvalues."""

import math

import torch

from weightspace.analysis.measure import measure
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("spectral_entropy", of="matrix", reference="WeightWatcher 0.7.7, matrix_entropy")
def spectral_entropy(spectrum: Spectrum) -> float:
    """Entropy of the eigenvalues' shares over the logarithm of the rank: from 0, one direction, to 1, all alike.

    `-sum p ln p / ln rank` with `p_i = s_i^2 / sum s^2`, WeightWatcher's convention. Matrices of rank one or zero have 0. Of pooled slices the
    rank is the number of eigenvalues that are not zero.
    """
    rank = spectrum.rank()
    if rank < 2:
        return 0.0
    shares = spectrum.eigenvalues / spectrum.eigenvalues.sum()
    return float(torch.special.entr(shares).sum()) / math.log(rank)
