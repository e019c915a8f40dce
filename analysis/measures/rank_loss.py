"""Rank loss."""

from weightspace.analysis.measure import Values, measure
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("rank_loss", of="matrix", reference="WeightWatcher 0.7.7, rank_loss and weak_rank_loss")
def rank_loss(spectrum: Spectrum, *, tolerance: float = 0.0, weak: float = 1e-6) -> Values:
    """How many singular values are zero.

    Beside it: `rank`, how many are not, and `weak`, the eigenvalues below a fixed size.

    Args:
        spectrum: of the layer.
        tolerance: a share of the largest singular value up to which one is zero. By default only those are that the rounding of the entries may
            have made; WeightWatcher takes float64's rounding for all, in which a product of thin float32 matrices has no zero left.
        weak: the size below which an eigenvalue is weak; it is not relative to anything.
    """
    rank = spectrum.rank(tolerance)
    return {"": len(spectrum.values) - rank, "rank": rank, "weak": int((spectrum.eigenvalues < weak).sum())}
