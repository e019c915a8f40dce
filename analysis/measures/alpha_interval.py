"""What chance does to the exponent of the tail."""

import math

import numpy as np
import torch

from weightspace.analysis.measure import Values, measure
from weightspace.analysis.spectra.power_law import bootstrapped
from weightspace.analysis.spectra.spectrum import Spectrum
from weightspace.errors import AnalysisError


@measure("alpha_interval", of="matrix", reference="Clauset et al., arXiv:0706.1062, section 4.1")
def alpha_interval(spectrum: Spectrum, *, bootstrap: int = 200, level: float = 0.95, generator: torch.Generator) -> Values:
    """An interval for `alpha` and `alpha_hat`, from resampled eigenvalues: the tail's beginning is chosen anew in each resample.

    Of values drawn from power laws, intervals at .95 held the exponent in 89 of 100 draws of 64 values, and in 96 of 100 of 400 values.
    Eigenvalues repel each other, so they are no independent draws, and the interval is a guide. That of `alpha_hat` holds the largest
    eigenvalue fixed: a bootstrap says nothing of a maximum, nor of norms and ranks, which are computed and not estimated.

    Args:
        spectrum: of the layer.
        bootstrap: resamples.
        level: share of the resamples inside.
        generator: draws them.

    Raises:
        AnalysisError: no resamples, or a level that is not between 0 and 1.
    """
    if bootstrap < 1 or not 0 < level < 1:
        raise AnalysisError(
            f"expected one or more resamples and a level between 0 and 1, found {bootstrap} and {level}; set bootstrap and level"
        )
    drawn = bootstrapped(spectrum.eigenvalues.cpu().numpy(), bootstrap, generator) if spectrum.power_law else np.empty(0)
    if not len(drawn):
        return dict.fromkeys(("low", "high", "hat_low", "hat_high"), math.nan)
    low, high = (float(one) for one in np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]))
    scale = float(spectrum.eigenvalues[0].log10())
    hat_low, hat_high = sorted((low * scale, high * scale))
    return {"low": low, "high": high, "hat_low": hat_low, "hat_high": hat_high}
