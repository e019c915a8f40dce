"""Names alone: sizes, depth and kinds of an architecture's tensors, never a weight; what every reader of weights has to beat."""

import math
from collections.abc import Sequence
from typing import get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.metanets.batch import WeightBatch, WeightSet
from weightspace.metanets.layout import Layout
from weightspace.metanets.metanet import MetaNet, metanet
from weightspace.metanets.standardise import Standardise
from weightspace.spec import Continuous

PROFILE = 8
"""Points along the depth at which the width is told."""
KINDS = ("weight", "bias", "running_mean", "running_var")


@metanet("names", reads="names", any_architecture=True, couples=False)
class Names(MetaNet):
    """Size and depth alone: widths along the depth, numbers of parameters and of tensors of each kind, through a perceptron.

    All networks of one architecture get one vector: what a metanet predicts better than this, it reads from the weights.
    """

    def __init__(self, layouts: Sequence[Layout], *, dim: int = 32, width: int = 64) -> None:
        """Build it; it reads any architecture.

        Args:
            layouts: looked at for nothing but how many features there are.
            dim: length of the vector.
            width: of the hidden layer.
        """
        super().__init__()
        self.dim = dim
        features = len(sizes(layouts[0]))
        self.standardise = Standardise(features)
        self.layers = nn.Sequential(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, dim))

    def fit_inputs(self, networks: WeightSet) -> None:
        """Take mean and deviation of the features over the networks to be trained on."""
        self.standardise.fit(torch.cat([_repeated(batch) for batch in networks.batches]))

    def embed(self, batch: WeightBatch) -> Float[Tensor, "networks dim"]:
        """Read networks of one architecture."""
        made: Tensor = self.layers(self.standardise(_repeated(batch)))
        return made


def _repeated(batch: WeightBatch) -> Float[Tensor, "networks features"]:
    return sizes(batch.layout).to(next(iter(batch.tensors.values()))).expand(len(batch), -1)


def sizes(layout: Layout) -> Float[Tensor, " features"]:
    """What can be said of an architecture without its weights; sizes and numbers as logarithms.

    Example:
        >>> from weightspace.spec import SymmetrySpec
        >>> layout = Layout.of(SymmetrySpec.parse({"fc.weight": "h 4", "fc.bias": "h"}, sizes={"h": 6}))
        >>> [round(math.exp(float(one))) for one in sizes(layout)[:2]], float(sizes(layout)[2])
        ([30, 3], 1.0)
    """
    slots, groups = layout.slots, list(layout.groups.values())
    matrices = [slot for slot in slots if len(slot.tips) > 1]
    hidden = [math.log1p(group.size) for group in groups if group.kind == "permutable"] or [0.0]
    counts = [len(slots), len(matrices), sum(slot.cells > 1 for slot in matrices), sum(group.per is not None for group in groups)]
    counts += [sum(slot.kind == kind for slot in slots) for kind in KINDS]
    counts += [sum(group.symmetry == symmetry for group in groups) for symmetry in get_args(Continuous)]
    numbers = [math.log(max(1, sum(math.prod(layout.shape(slot)) for slot in slots))), *map(math.log1p, counts[:1]), float(layout.depth)]
    numbers += [*map(math.log1p, counts[1:]), min(hidden), max(hidden), sum(hidden) / len(hidden)]
    return torch.tensor([*numbers, *_profile(layout)], dtype=torch.float64)


def _profile(layout: Layout) -> list[float]:
    """Log widths that the matrices read and make, at points evenly along the depth."""
    widths = []
    for slot in layout.slots:
        if len(slot.tips) > 1:
            made = math.prod(layout.groups[slot.groups[j]].size for j in range(len(slot.groups)) if j not in slot.sources)
            read = math.prod(layout.groups[slot.groups[j]].size for j in slot.sources)
            widths.append((math.log1p(read), math.log1p(made)))
    widths = widths or [(0.0, 0.0)]
    places = [round(k * (len(widths) - 1) / (PROFILE - 1)) for k in range(PROFILE)]
    return [width for at in places for width in widths[at]]


__all__ = ["Names", "sizes"]
