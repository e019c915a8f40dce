"""What singular values say of a layer: norms, ranks, tails, and what chance would have made."""

from weightspace.analysis.spectra.analyse import DEFAULT as DEFAULT
from weightspace.analysis.spectra.analyse import spectra as spectra
from weightspace.analysis.spectra.analyse import take as take
from weightspace.analysis.spectra.spectrum import Spectrum as Spectrum
from weightspace.analysis.spectra.table import SpectraTable as SpectraTable
