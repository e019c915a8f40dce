"""Intruder dimensions: singular vectors of a tuned model that its base has not."""

from weightspace.analysis.intruders.dimensions import intruder_dimensions
from weightspace.analysis.intruders.layer import LayerIntruders, TunedVector
from weightspace.analysis.intruders.mitigation import mitigate
from weightspace.analysis.intruders.result import Intruders
from weightspace.analysis.intruders.sweep import Sweep, sweep

__all__ = ["Intruders", "LayerIntruders", "Sweep", "TunedVector", "intruder_dimensions", "mitigate", "sweep"]
