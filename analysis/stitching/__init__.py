"""Stitching: networks cut where one group of neurons crosses, and joined to others by layers that are found, not rewritten."""

from weightspace.analysis.stitching.bridge import Bridge
from weightspace.analysis.stitching.chain import Chain, chain_of
from weightspace.analysis.stitching.costs import costs
from weightspace.analysis.stitching.family import family
from weightspace.analysis.stitching.fit import Fit, fit_error
from weightspace.analysis.stitching.fitting import fit_stitches, gather
from weightspace.analysis.stitching.layer import Affine, Kind, Stitch, stitches, stitching_layer
from weightspace.analysis.stitching.matrix import StitchingMaps, stitching_maps
from weightspace.analysis.stitching.pareto import report
from weightspace.analysis.stitching.patchwork import Patchwork, Piece, Route, stitched
from weightspace.analysis.stitching.penalty import Penalty, penalties
from weightspace.analysis.stitching.task_matching import match_task
from weightspace.analysis.stitching.training import train
from weightspace.analysis.stitching.transfer import TransferGrid, transfer_grid

__all__ = [
    "Affine",
    "Bridge",
    "Chain",
    "Fit",
    "Kind",
    "Patchwork",
    "Penalty",
    "Piece",
    "Route",
    "Stitch",
    "StitchingMaps",
    "TransferGrid",
    "chain_of",
    "costs",
    "family",
    "fit_error",
    "fit_stitches",
    "gather",
    "match_task",
    "penalties",
    "report",
    "stitched",
    "stitches",
    "stitching_layer",
    "stitching_maps",
    "train",
    "transfer_grid",
]
