"""Weighted sums of tensors."""

from collections.abc import Sequence

from torch import Tensor

from weightspace.errors import MergeError


def weighted_sum(tensors: Sequence[Tensor], weights: Sequence[float | Tensor]) -> Tensor:
    """Return `sum_i w_i x_i` as a new tensor, in the dtype of the tensors, with one pass over each and no other temporary.

    Args:
        tensors: at least one, all of one shape and dtype.
        weights: one number for each tensor, or a tensor of that dtype that broadcasts to its shape.

    Example:
        >>> import torch
        >>> weighted_sum([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])], [0.5, 2.0])
        tensor([6.5000, 9.0000])
    """
    made = tensors[0] * weights[0]
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        if isinstance(weight, Tensor):
            made.addcmul_(tensor, weight)
        else:
            made.add_(tensor, alpha=weight)
    return made


def shares(weights: Sequence[float], setting: str = "normalize") -> tuple[float, ...]:
    """Divide weights by their sum.

    Args:
        weights: of the inputs.
        setting: the parameter that asked for it, for the message.

    Raises:
        MergeError: they sum to nothing.

    Example:
        >>> shares([1.0, 3.0])
        (0.25, 0.75)
    """
    total = sum(weights)
    if abs(total) < 1e-8:
        raise MergeError(f"the weights {list(weights)} sum to {total:g}, which cannot be normalised; change them, or set {setting}: false")
    return tuple(weight / total for weight in weights)
