"""Fan-in: of how many terms each output of a layer is a sum."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn


@dataclass(frozen=True)
class Fan:
    """How the fan-in of a weight follows from its shape.

    Attributes:
        kind: `plain` where the weight is (out, in, *kernel), with groups the inputs of one; `transposed` where it is (in, out, *kernel);
            `table` where an output is one row, looked up.
        apart: of a transposed convolution, its groups times its strides: of all its inputs and cells an output sees so many times fewer.
    """

    kind: Literal["plain", "transposed", "table"] = "plain"
    apart: int = 1

    @classmethod
    def of(cls, layer: nn.Module) -> "Fan":
        """That of a layer's weight."""
        if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
            return cls("table")
        if isinstance(layer, nn.modules.conv._ConvTransposeNd):
            return cls("transposed", layer.groups * math.prod(layer.stride))
        return PLAIN

    def of_shape(self, shape: Sequence[int]) -> float:
        """The fan-in of a weight of two or more dimensions; of a transposed convolution the mean over the places of its output.

        `torch.nn.init` says the same of plain weights. It takes the others for plain ones too, which gives the outputs of a transposed
        convolution for its inputs, and the length of a row for the one row that is looked up.

        Example:
            >>> PLAIN.of_shape((8, 4, 3, 3)), Fan("transposed", 4).of_shape((8, 4, 2, 2)), Fan("table").of_shape((100, 8))
            (36.0, 8.0, 1.0)
        """
        if self.kind == "table":
            return 1.0
        if self.kind == "transposed":
            return max(1, shape[0] * math.prod(shape[2:])) / self.apart
        return float(max(1, math.prod(shape[1:])))


PLAIN = Fan()


def fans_of(module: nn.Module) -> Mapping[str, Fan]:
    """The parameters of a module whose fan-in is not that of a plain weight.

    One that is tied to a plain weight, as an embedding to the layer that makes the outputs, is plain.
    """
    held = [(id(layer.weight), Fan.of(layer)) for layer in module.modules() if isinstance(getattr(layer, "weight", None), nn.Parameter)]
    plain = {owner for owner, fan in held if fan == PLAIN}
    special = {owner: fan for owner, fan in held if owner not in plain}
    return {name: special[id(parameter)] for name, parameter in module.named_parameters() if id(parameter) in special}


__all__ = ["PLAIN", "Fan", "fans_of"]
