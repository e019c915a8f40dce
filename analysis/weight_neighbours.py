"""Neighbours by weights: networks of one architecture by the cosine of all their numbers, as they stand and without any alignment."""

import math
from collections.abc import Iterable, Mapping

from torch import Tensor

from weightspace.checkpoint import Checkpoint
from weightspace.errors import AnalysisError


def weight_cosines(model: Checkpoint, others: Iterable[tuple[str, Checkpoint]]) -> dict[str, float]:
    """The cosine of a network with others, all float tensors of each laid end to end, tied ones once; in float64.

    Networks that are the same up to a permutation of hidden units are far apart here; embeddings of a metanet that honours permutations
    see them as one.

    Args:
        model: the network to start from.
        others: names and networks of the same architecture, read one at a time.

    Returns:
        -1 to 1 by name; NaN for a network that is all zeros or not finite.

    Raises:
        AnalysisError: the network itself is all zeros, is not finite or has no floats, or another one has other tensors.

    Example:
        >>> import torch
        >>> one, other = Checkpoint.of({"w": torch.tensor([3.0, 4.0])}), Checkpoint.of({"w": torch.tensor([3.0, -4.0])})
        >>> weight_cosines(one, [("other", other)])
        {'other': -0.28}
    """
    own = _floats(model)
    size = math.sqrt(_product(own, own))
    if not own or not math.isfinite(size) or not size:
        raise AnalysisError(
            "its weights are all zeros, not finite, or none, so that no other network lies in their direction; take another model"
        )
    found: dict[str, float] = {}
    for name, other in others:
        theirs = _floats(other)
        if {key: tensor.shape for key, tensor in own.items()} != {key: tensor.shape for key, tensor in theirs.items()}:
            raise AnalysisError(f"'{name}' has other tensors than the model it is compared with; compare networks of one architecture")
        length = math.sqrt(square) if math.isfinite(square := _product(theirs, theirs)) else math.nan
        cosine = _product(own, theirs) / (size * length) if length else math.nan
        found[name] = max(-1.0, min(1.0, cosine)) if math.isfinite(cosine) else math.nan
    return found


def _floats(checkpoint: Checkpoint) -> dict[str, Tensor]:
    return {name: checkpoint[name].double().reshape(-1) for name, info in checkpoint.info.items() if info.is_parameter and info.numel}


def _product(x: Mapping[str, Tensor], y: Mapping[str, Tensor]) -> float:
    return sum(float(x[name] @ y[name]) for name in x)
