"""What chance gives: random networks of the same spectra, aligned as the real ones are."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from weightspace.errors import TaskError
from weightspace.symmetry import StateDict

Align = Callable[[dict[str, Tensor], dict[str, Tensor]], StateDict]
"""Moves b onto a: `align(a, b)` returns the aligned b."""


def null_pairs(
    a: StateDict, b: StateDict, align: Align, generator: torch.Generator, count: int
) -> Iterator[tuple[StateDict, StateDict, StateDict]]:
    """Draw random networks like a and like b, independently, and align the second to the first: (first, second, aligned second).

    Raises:
        TaskError: no pair is asked for.
    """
    if count < 1:
        raise TaskError(f"expected at least 1 pair of random networks, found {count}; 3 are usual")
    for _ in range(count):
        first, second = spectrum_matched(a, generator), spectrum_matched(b, generator)
        yield first, second, align(first, second)


def spectrum_matched(state_dict: StateDict, generator: torch.Generator) -> dict[str, Tensor]:
    """Draw a network with the same singular values in every matrix, and the same entries in every vector in another order."""
    made: dict[str, Tensor] = {}
    known: dict[tuple[int, ...], Tensor] = {}
    for name, tensor in state_dict.items():
        where = (tensor.data_ptr(), *tensor.shape)
        if where not in known or not tensor.numel():
            known[where] = _redrawn(tensor.detach(), generator)
        made[name] = known[where]
    return made


def _redrawn(tensor: Tensor, generator: torch.Generator) -> Tensor:
    if not tensor.is_floating_point() or not tensor.ndim or not tensor.numel():
        return tensor
    if tensor.ndim == 1:
        return tensor[torch.randperm(len(tensor), generator=generator).to(tensor.device)]
    matrix = tensor.flatten(1).double().cpu()
    values = torch.linalg.svdvals(matrix)
    left, right = (_orthonormal(rows, len(values), generator) for rows in matrix.shape)
    made: Tensor = (left * values) @ right.mT
    return made.reshape(tensor.shape).to(tensor)


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Orthonormal columns drawn uniformly: those of a Gaussian matrix, with the signs that make them so (Mezzadri 2007)."""
    made, triangle = torch.linalg.qr(torch.randn(rows, columns, dtype=torch.float64, generator=generator))
    signed: Tensor = made * triangle.diagonal().sign()
    return signed
