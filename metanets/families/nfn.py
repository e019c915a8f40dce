"""Neural functional networks: NP, HNP and attention layers for feedforward chains."""

from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn

from weightspace.metanets.equivariant.attention import NPAttention
from weightspace.metanets.equivariant.basis import Basis, foldable
from weightspace.metanets.equivariant.chain import chain
from weightspace.metanets.equivariant.linear import EquivariantLinear
from weightspace.metanets.equivariant.stack import Codes, EquivariantStack, chosen, only
from weightspace.metanets.layout import Layout
from weightspace.metanets.metanet import metanet


@metanet("nfn", reference="arXiv:2302.14040")
def nfn(
    layouts: Sequence[Layout],
    *,
    dim: int = 64,
    channels: int = 32,
    depth: int = 3,
    width: int = 128,
    layer: str = "HNP",
    heads: int = 4,
    codes: str = "learned",
) -> EquivariantStack:
    """NP, HNP or attention layers on the weights of MLPs and CNNs.

    Zhou et al., Permutation Equivariant Neural Functionals (arXiv:2302.14040): HNP permutes hidden neurons and makes inputs and outputs
    channels; NP permutes all and tells inputs and outputs by codes. Both are every map that commutes with those permutations, so HNP
    also has the map from the biases of the last hidden layer to the last weights. `attention` is the layer of Zhou et al., Neural
    Functional Transformers (arXiv:2305.13546), a pointwise perceptron after it. The cells of a kernel are embedded in the channels of a
    weight and not multiplied with them.

    Args:
        layouts: of the one architecture.
        dim: length of the vector.
        channels: of each weight's feature.
        depth: layers.
        width: of the hidden layer of the perceptron at the end.
        layer: `NP`, `HNP` or `attention`.
        heads: of the attention; they divide the channels.
        codes: of inputs and outputs where they are not channels: `learned` or `sinusoidal`.

    Raises:
        MetanetError: the architecture is no chain, there are several, or a setting is none of its words.
    """
    layout = only("nfn", layouts)
    groups = chain("nfn", layout)
    chosen("nfn", "layer", layer, ("NP", "HNP", "attention"))
    kind = cast(Codes, chosen("nfn", "codes", codes, ("learned", "sinusoidal")))

    def make_layer(basis: Basis, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> nn.Module:
        if layer == "attention":
            return NPAttention(basis, groups, channels, heads)
        return EquivariantLinear(basis, inputs, outputs, rectify=True)

    fold = foldable(layout) if layer == "HNP" else frozenset()
    return EquivariantStack(layout, make_layer, fold=fold, dim=dim, channels=channels, depth=depth, width=width, codes=kind)
