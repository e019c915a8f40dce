"""Mode connectivity: what lies between two networks in weight space, and how to mend it."""

from weightspace.analysis.connectivity.bezier import Bezier, bezier
from weightspace.analysis.connectivity.calibration import calibrated_loss
from weightspace.analysis.connectivity.curve import Barrier, Connectivity
from weightspace.analysis.connectivity.distance import L2Reduction, l2_reduction
from weightspace.analysis.connectivity.line import barrier
from weightspace.analysis.connectivity.null import spectrum_matched
from weightspace.analysis.connectivity.repair import Repaired, repair, repair_many
from weightspace.analysis.connectivity.singular import Alignment, SingularAlignment, null_alignment, singular_alignment

__all__ = [
    "Alignment",
    "Barrier",
    "Bezier",
    "Connectivity",
    "L2Reduction",
    "Repaired",
    "SingularAlignment",
    "barrier",
    "bezier",
    "calibrated_loss",
    "l2_reduction",
    "null_alignment",
    "repair",
    "repair_many",
    "singular_alignment",
    "spectrum_matched",
]
