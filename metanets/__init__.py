"""Networks that eat weights: graph metanetworks, equivariant layers and embeddings.

Every metanet follows from an architecture's `SymmetrySpec`: a tensor unfolds into slots whose dimensions are neuron groups
(`layout`), networks of one architecture are stacked (`batch`), and a family is one file with a decorator (`families/`).
"""

from weightspace.metanets.batch import WeightBatch, WeightSet
from weightspace.metanets.editing import Editor
from weightspace.metanets.embedding import embed
from weightspace.metanets.examples import Examples
from weightspace.metanets.graphs.graph import batches, from_graph, to_graph
from weightspace.metanets.heads import heads
from weightspace.metanets.layout import Layout, Slot
from weightspace.metanets.metanet import EquivariantMetaNet, MetaNet, build, metanet, metanets
from weightspace.metanets.predictor import Predictor
from weightspace.metanets.saving import load_metanet, load_predictor, save_metanet, save_predictor
from weightspace.metanets.training import Schedule, train

__all__ = [
    "Editor",
    "EquivariantMetaNet",
    "Examples",
    "Layout",
    "MetaNet",
    "Predictor",
    "Schedule",
    "Slot",
    "WeightBatch",
    "WeightSet",
    "batches",
    "build",
    "embed",
    "from_graph",
    "heads",
    "load_metanet",
    "load_predictor",
    "metanet",
    "metanets",
    "save_metanet",
    "save_predictor",
    "to_graph",
    "train",
]
