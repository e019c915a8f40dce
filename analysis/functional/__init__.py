"""Functional measures: what networks compute on data, layer by layer, and how it moves with their weights."""

from weightspace.analysis.functional.clusters import Clusters, cluster_units
from weightspace.analysis.functional.collapse import NeuralCollapse, neural_collapse
from weightspace.analysis.functional.comparison import Comparison, compare
from weightspace.analysis.functional.convergence import Pairing, convergence, gather, pair_units
from weightspace.analysis.functional.intrinsic import IntrinsicDimension, intrinsic_dimension, subspace
from weightspace.analysis.functional.landscape import Landscape, landscape
from weightspace.analysis.functional.prediction import Prediction, predict_sparsely, sparse_prediction

__all__ = [
    "Clusters",
    "Comparison",
    "IntrinsicDimension",
    "Landscape",
    "NeuralCollapse",
    "Pairing",
    "Prediction",
    "cluster_units",
    "compare",
    "convergence",
    "gather",
    "intrinsic_dimension",
    "landscape",
    "neural_collapse",
    "pair_units",
    "predict_sparsely",
    "sparse_prediction",
    "subspace",
]
