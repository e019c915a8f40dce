"""Hyperspherical energy."""

import math

import torch
from torch import Tensor

from weightspace.analysis.measure import measure
from weightspace.analysis.spectra.spectrum import Spectrum
from weightspace.errors import AnalysisError

_ROWS = 1024
_CLOSE = 1e-4  # squared distances below this lose digits when they are taken from products


@measure("hyperspherical_energy", of="matrix", reference="Liu et al., arXiv:1805.09298, equation 1")
def hyperspherical_energy(spectrum: Spectrum, *, power: float = 1.0) -> float:
    """How closely the directions of the neurons lie on the sphere: the mean over pairs of a decreasing function of their distance.

    `|a - b|^-power`, or `ln(1 / |a - b|)` for the power 0; the paper sums where this takes the mean, so that layers of different width compare. Rows of zeros have no
    direction and are left out. Infinite where two neurons have one direction; not a number for fewer than two neurons.

    Args:
        spectrum: of the layer.
        power: the paper's s, 0 or more.

    Raises:
        AnalysisError: a power below 0.
    """
    if power < 0:
        raise AnalysisError(f"expected a power of 0 or more, found {power}; set power")
    rows = spectrum.matrix.double()
    norms = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    unit = (rows / norms)[norms[:, 0] > 0]
    if len(unit) < 2:
        return math.nan
    total = sum(_energy(unit[at : at + _ROWS], unit, at, power) for at in range(0, len(unit), _ROWS))
    return total / (len(unit) * (len(unit) - 1) / 2)


def _energy(some: Tensor, unit: Tensor, start: int, power: float) -> float:
    """The energy of pairs of some rows with those that follow each."""
    squares = (2 - 2 * some @ unit[start:].T).triu(1)
    follows = torch.ones_like(squares, dtype=torch.bool).triu(1)
    for row, column in (follows & (squares < _CLOSE)).nonzero().tolist():
        squares[row, column] = ((some[row] - unit[start + column]) ** 2).sum()
    pairs = squares[follows]
    return float((-pairs.log() / 2 if power == 0 else pairs ** (-power / 2)).sum())
