"""Deep weight-space networks: every weight and bias mapped to every other, by what they share."""

from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn

from weightspace.errors import MetanetError
from weightspace.metanets.equivariant.attention import SetAttention
from weightspace.metanets.equivariant.basis import Basis, foldable
from weightspace.metanets.equivariant.chain import chain
from weightspace.metanets.equivariant.linear import EquivariantLinear, Pooling
from weightspace.metanets.equivariant.stack import EquivariantStack, chosen, only
from weightspace.metanets.layout import Layout
from weightspace.metanets.metanet import metanet


@metanet("dws", reference="arXiv:2301.12780")
def dws(
    layouts: Sequence[Layout],
    *,
    dim: int = 64,
    channels: int = 32,
    depth: int = 4,
    width: int = 128,
    pooling: str = "max",
    set_layer: str = "deepsets",
) -> EquivariantStack:
    """DWSNets: blocks between all weights and biases of an MLP, pooled over what two of them do not share.

    Navon et al., Equivariant Architectures for Learning in Deep Weight Spaces (arXiv:2301.12780), section 4. Where a block keeps one
    axis it is a set layer on it: DeepSets, or attention among its members. We depart in that the blocks which carry the same axis are
    one matrix, that a norm over channels stands for batch norm, and that no block is left out.

    Args:
        layouts: of the one architecture.
        dim: length of the vector.
        channels: of each weight's feature.
        depth: layers.
        width: of the hidden layer of the perceptron at the end.
        pooling: `max` or `mean`, over the axes that are not shared.
        set_layer: `deepsets` or `attention`.

    Raises:
        MetanetError: the architecture is no MLP, there are several, or a setting is none of its words.
    """
    layout = only("dws", layouts)
    chain("dws", layout)
    kernel = next((slot for slot in layout.slots if slot.cells > 1), None)
    if kernel is not None:
        raise MetanetError(f"metanet 'dws' reads MLPs, but '{kernel.key}' has {kernel.cells} values at each place; use 'nfn' or 'unf'")
    over = cast(Pooling, chosen("dws", "pooling", pooling, ("max", "mean")))
    mixer = SetAttention if chosen("dws", "set_layer", set_layer, ("deepsets", "attention")) == "attention" else None

    def make_layer(basis: Basis, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> nn.Module:
        return EquivariantLinear(basis, inputs, outputs, pooling=over, rectify=True, mixer=mixer)

    return EquivariantStack(layout, make_layer, fold=foldable(layout), dim=dim, channels=channels, depth=depth, width=width)
