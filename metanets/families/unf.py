"""Universal Neural Functionals: equivariant layers for any architecture, their basis derived from its spec."""

from collections.abc import Mapping, Sequence
from typing import cast

from torch import nn

from weightspace.metanets.equivariant.basis import Basis
from weightspace.metanets.equivariant.linear import EquivariantLinear
from weightspace.metanets.equivariant.stack import Codes, EquivariantStack, chosen, folded, only
from weightspace.metanets.layout import Layout
from weightspace.metanets.metanet import metanet


@metanet("unf", reference="arXiv:2402.05232")
def unf(
    layouts: Sequence[Layout],
    *,
    dim: int = 64,
    channels: int = 32,
    depth: int = 3,
    width: int = 128,
    endpoints: str = "auto",
    codes: str = "learned",
) -> EquivariantStack:
    """All linear maps that commute with an architecture's permutations, layer after layer.

    Zhou, Finn and Harrison, Universal Neural Functionals (arXiv:2402.05232). The paper permutes every axis; here axes of a fixed order
    become channels or get codes, and groups `per` another (heads, groups of channels) are mapped inside their parents.

    Args:
        layouts: of the one architecture.
        dim: length of the vector.
        channels: of each weight's feature.
        depth: layers.
        width: of the hidden layer of the perceptron at the end.
        endpoints: what becomes of inputs and outputs: `fold` makes them channels, which is complete, with parameters that grow as their
            square; `code` gives each a code; `auto` folds up to 16.
        codes: `learned` or `sinusoidal`.

    Raises:
        MetanetError: there are several architectures, or a setting is none of its words.
    """
    layout = only("unf", layouts)
    kind = cast(Codes, chosen("unf", "codes", codes, ("learned", "sinusoidal")))

    def make_layer(basis: Basis, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> nn.Module:
        return EquivariantLinear(basis, inputs, outputs, rectify=True)

    return EquivariantStack(
        layout, make_layer, fold=folded("unf", layout, endpoints), dim=dim, channels=channels, depth=depth, width=width, codes=kind
    )
