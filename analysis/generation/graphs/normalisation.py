"""Parameter normalisation: what a decoder gives for a parameter, brought to the size that a network of any width can use."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from weightspace.analysis.generation.fans import PLAIN, Fan
from weightspace.analysis.generation.graphs.graph import Role


def normalised(values: Tensor, role: Role, shape: Sequence[int], fan: Fan = PLAIN, *, is_grouped: bool = False) -> Tensor:
    r"""Normalise one parameter (Knyazev et al., arXiv:2110.13100, section 3.3).

    Matrices are scaled by $\sqrt{\beta / \text{fan-in}}$, $\beta = 2$, or 1 for depthwise convolutions and for kernels of one row or
    one column in two dimensions; scales become $2 \sigma(p / 2)$ and shifts $\tanh(p / 5)$; position encodings stay as they are.

    Args:
        values: from the decoder.
        role: what the parameter is.
        shape: of the parameter.
        fan: how its fan-in follows from that.
        is_grouped: whether it is of a convolution in groups.
    """
    if role == "matrix":
        return values * math.sqrt(_beta(shape, is_grouped) / fan.of_shape(shape))
    if role == "scale":
        return 2 * torch.sigmoid(0.5 * values)
    return torch.tanh(0.2 * values) if role == "shift" else values


def _beta(shape: Sequence[int], is_grouped: bool) -> int:
    is_depthwise = is_grouped and shape[1] == 1
    is_line = len(shape) == 4 and 1 in shape[2:] and max(shape[2:]) > 1
    return 1 if is_depthwise or is_line else 2


__all__ = ["normalised"]
