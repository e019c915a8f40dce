"""Proofs that a symmetry specification is sound (`prove`) and complete (`certificate`)."""

from weightspace.proof.complete import Certificate, certificate
from weightspace.proof.network import function_change
from weightspace.proof.sound import prove

__all__ = ["Certificate", "certificate", "function_change", "prove"]
