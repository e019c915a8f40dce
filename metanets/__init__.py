"""Networks that eat weights: graph metanetworks, equivariant layers and embeddings.

Every metanet follows from an architecture's `SymmetrySpec`: a tensor unfolds into slots whose dimensions are neuron groups
(`layout`), networks of one architecture are stacked (`batch`), and a family is one file with a decorator (`families/`).
"""

from weightspace.metanets.batch import WeightBatch, WeightSet
from weightspace.metanets.layout import Layout, Slot
from weightspace.metanets.metanet import EquivariantMetaNet, MetaNet, build, load_metanet, metanet, metanets, save_metanet

__all__ = [
    "EquivariantMetaNet",
    "Layout",
    "MetaNet",
    "Slot",
    "WeightBatch",
    "WeightSet",
    "build",
    "load_metanet",
    "metanet",
    "metanets",
    "save_metanet",
]
