"""Screening of adapters: spectral features of their updates, and a classifier that is judged out of sample."""

from weightspace.analysis.screening.features import adapter_features as adapter_features
from weightspace.analysis.screening.features import update_features as update_features
from weightspace.analysis.screening.screen import Screen as Screen
from weightspace.analysis.screening.screen import Screening as Screening
from weightspace.analysis.screening.screen import cross_validate as cross_validate
from weightspace.analysis.screening.screen import fit_screen as fit_screen

__all__ = ["Screen", "Screening", "adapter_features", "cross_validate", "fit_screen", "update_features"]
