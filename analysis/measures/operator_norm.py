"""Operator norm of a layer as a map."""

from weightspace.analysis.measure import measure
from weightspace.analysis.spectra import convolution
from weightspace.analysis.spectra.spectrum import Spectrum


@measure("operator_norm", of="matrix", reference="Sedghi, Gupta and Long, arXiv:1805.10408, theorem 6")
def operator_norm(spectrum: Spectrum, *, image: tuple[int, ...] = (32,), groups: int = 1) -> float:
    """The largest factor by which the layer stretches its input: of a convolution the true one, by the Fourier transform.

    Exact for circular padding and stride 1; see `convolution.operator_norm` for others. Of a dense layer it is the spectral norm.

    Args:
        spectrum: of the layer.
        image: size of the image that is convolved: for each axis, or one for all.
        groups: of the convolution.
    """
    if spectrum.cells == 1 and groups == 1:
        return float(spectrum.values[0])
    axes = spectrum.kernel.ndim - 2
    return convolution.operator_norm(spectrum.kernel, image * axes if len(image) == 1 else image, groups=groups)
