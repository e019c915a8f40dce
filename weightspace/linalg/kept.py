"""Decompositions kept by the content of their tensor, so that a base is decomposed once for all that came of it."""

from collections.abc import Callable, Mapping, MutableMapping

from torch import Tensor

from weightspace.linalg.singular import Singular, singular_values, svd

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
    kept = _kept(f"{key}/svd", lambda: _parts(svd(matrix())), cache)
    return Singular(kept["u"], kept["s"], kept["v"])


def cached_singular_values(key: str, matrix: Callable[[], Tensor], cache: Cache | None) -> Tensor:
    """Take the singular values of the matrix of a tensor, or what a cache has of it; arguments as for `cached_svd`."""
    return _kept(f"{key}/singular values", lambda: {"s": singular_values(matrix())}, cache)["s"]


def _parts(found: Singular) -> dict[str, Tensor]:
    return {"u": found.u, "s": found.s, "v": found.v}


def _kept(key: str, make: Callable[[], dict[str, Tensor]], cache: Cache | None) -> Mapping[str, Tensor]:
    if cache is None:
        return make()
    if key not in cache:
        cache[key] = make()
    return cache[key]
