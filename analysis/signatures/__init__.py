"""Robust weight signatures: what training on corrupted data adds to a model, taken out, stored, put into others and removed."""

from weightspace.analysis.signatures.applying import apply, compose, made_nonfinite
from weightspace.analysis.signatures.extracting import extract, quantise
from weightspace.analysis.signatures.quantisation import QUANTISERS, Grid
from weightspace.analysis.signatures.removing import keep, patch_of, remove
from weightspace.analysis.signatures.signature import Part, Signature, open_signature
from weightspace.analysis.signatures.transferring import moved, transfer

__all__ = [
    "QUANTISERS",
    "Grid",
    "Part",
    "Signature",
    "apply",
    "compose",
    "extract",
    "keep",
    "made_nonfinite",
    "moved",
    "open_signature",
    "patch_of",
    "quantise",
    "remove",
    "transfer",
]
