"""Fingerprints: numbers of a network's weights that no symmetry of its architecture changes."""

from weightspace.analysis.fingerprints.fingerprint import fingerprint as fingerprint
from weightspace.analysis.fingerprints.fingerprint import similarity as similarity
from weightspace.analysis.fingerprints.huref import huref as huref

__all__ = ["fingerprint", "huref", "similarity"]
