"""Means over the layers of what their spectra say."""

from typing import Literal

from weightspace.analysis.measure import Values, measure
from weightspace.analysis.spectra import spectra
from weightspace.checkpoint import Checkpoint


@measure("spectral_means", of="model", reference="Martin, Peng and Mahoney, arXiv:2002.06716, equation 10")
def spectral_means(checkpoint: Checkpoint, *, slices: Literal["reshaped", "pooled"] = "reshaped") -> Values:
    """Means over the layers of alpha, ranks, norms and what else `weightspace spectra` prints, as WeightWatcher sums a model up.

    Layers that cannot be measured are left out of the means; `layers` is how many were measured.

    Args:
        checkpoint: opened.
        slices: how kernels are matrices; see `Spectrum`.
    """
    found = spectra(checkpoint, slices=slices)
    return {"layers": sum(not row.note for row in found.rows)} | found.summary
