"""Stitching: networks cut where one group of neurons crosses, and joined to others by layers that are found, not rewritten."""

from weightspace.analysis.stitching.bridge import Bridge
from weightspace.analysis.stitching.chain import Chain, chain_of
from weightspace.analysis.stitching.fitting import fit_stitches, gather
from weightspace.analysis.stitching.layer import Affine, Kind, Stitch, stitches, stitching_layer
from weightspace.analysis.stitching.patchwork import Patchwork, Piece, Route, stitched

__all__ = [
    "Affine",
    "Bridge",
    "Chain",
    "Kind",
    "Patchwork",
    "Piece",
    "Route",
    "Stitch",
    "chain_of",
    "fit_stitches",
    "gather",
    "stitched",
    "stitches",
    "stitching_layer",
]
