"""Decompositions kept by the content of their tensor, so that a base is decomposed once for all that came of it."""

import itertools
from collections.abc import Callable, Mapping, MutableMapping

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.linalg.singular import Singular, each, singular_values, svd

Cache = MutableMapping[str, Mapping[str, Tensor]]
"""Small sets of tensors by key: a dict, or what a zoo keeps in files. Keys are `f"{hash of the tensor in hex}/{what}"`."""


def cached_svd(key: str, matrix: Callable[[], Tensor], cache: Cache | None) -> Singular:
    """Decompose the matrix of a tensor, or take what a cache has of it.

    Args:
        key: the tensor's hash in hex, with what was done to lay it out as a matrix (`"…/transposed"`) where anything was.
        matrix: called where the cache has nothing.
        cache: written to; None keeps nothing.

    Example:
        >>> import torch
        >>> cache = {}
        >>> cached_svd("abc", lambda: torch.eye(2), cache).s, list(cache)
        (tensor([1., 1.]), ['abc/svd'])
    """
    place = f"{key}/svd"
    kept = None if cache is None else cache.get(place)
    if kept is not None:
        return Singular(kept["u"], kept["s"], kept["v"])
    made = svd(matrix())
    if cache is not None:
        cache[place] = {"u": made.u, "s": made.s, "v": made.v}
    return made


def cached_singular_values(stacks: Mapping[str, Float[Tensor, "count rows columns"]], cache: Cache | None) -> dict[str, Tensor]:
    """Take the singular values of the matrices of tensors, or what a cache has of them; what it lacks is taken together.

    Args:
        stacks: of each tensor its matrices, by a key as for `cached_svd`.
        cache: written to; None keeps nothing.

    Returns:
        The values of all matrices of each tensor in float64, descending.

    Raises:
        AnalysisError: as `singular_values` does, of any of them.

    Example:
        >>> cached_singular_values({"abc": torch.stack([torch.eye(2), 3 * torch.eye(2)])}, None)
        {'abc': tensor([3., 3., 1., 1.], dtype=torch.float64)}
    """
    places = {key: f"{key}/singular values" for key in stacks}
    kept = {key: found["s"] for key, place in places.items() if cache is not None and (found := cache.get(place)) is not None}
    lacking = {key: stacks[key] for key in stacks if key not in kept}
    made = iter(each(singular_values, [matrix for matrices in lacking.values() for matrix in matrices]))
    for key, matrices in lacking.items():
        kept[key] = torch.cat(list(itertools.islice(made, len(matrices)))).sort(descending=True).values
        if cache is not None:
            cache[places[key]] = {"s": kept[key]}
    return kept
