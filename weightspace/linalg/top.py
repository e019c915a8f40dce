"""The top few singular triplets of a matrix, proved to be the top few or taken from a full decomposition."""

import contextlib
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import AnalysisError
from weightspace.linalg.krylov import Ritz, krylov, random_start
from weightspace.linalg.singular import LinAlgError, Method, Singular, finite, gram, svd

_SMALL = 384  # up to this size a full decomposition takes a few milliseconds, as the import of what would save some of them does many times
_SEARCHED = 1500  # up to this size a few vectors of the Gram matrix take no longer than a search for them
_COLUMNS = 192  # a search that has not ended by then takes longer than what it is to spare
_ROUNDING = torch.finfo(torch.float64).eps


def top_singular(matrix: Float[Tensor, "rows columns"], k: int, *, generator: torch.Generator | None = None) -> Singular:
    """Find the k largest singular triplets of a matrix; all where it has fewer.

    A Krylov method finds them fast but not always all: a value can hide behind its neighbours, and a slowly decaying spectrum looks like a
    few vectors. So the pairs X, t that it finds are taken out of the Gram matrix G in float64: where `m I - (G - X diag(t) X.T)` has a
    Cholesky factor for an m under the last t, by more than the rounding of G and of the factor, no other value exceeds sqrt(m), by Weyl's
    inequality. Where it has none, where the values do not end in a gap, or where the Krylov method did not get there, the Gram matrix is decomposed
    in full; where the last value is under 1e-6 of the first, or LAPACK fails, the matrix itself is. `Singular.method` says which.

    A base with a low-rank update is not for here but for `updated`, which never forms the sum.

    Args:
        matrix: in any dtype of floats.
        k: at least 1.
        generator: draws the start of the iteration; what is returned depends on it only by rounding. The default draws the same each time.

    Raises:
        AnalysisError: k under 1, NaN or infinities, or a matrix on which LAPACK fails.

    Example:
        >>> top_singular(torch.diag(torch.tensor([1.0, 3.0, 2.0])), 2).s
        tensor([3., 2.])
    """
    if k < 1:
        raise AnalysisError(f"expected at least 1 singular vector to find, found k={k}; 10 is usual")
    wide = finite(matrix)
    size = min(wide.shape)
    if size <= _SMALL or 8 * k > size or not bool(wide.any()):
        return svd(wide).first(k)
    scale = float(wide.abs().max())  # so that squares neither overflow nor vanish
    oriented = (wide if wide.shape[0] == size else wide.T).double() / scale
    try:
        vectors, method = _top_of_gram(gram(oriented), k, 4 * (sum(wide.shape) + 2) * _ROUNDING, generator)
        found = _triplets(oriented, vectors, k)
    except LinAlgError:
        return svd(wide).first(k)
    if float(found.s[-1]) < 1e-6 * float(found.s[0]):
        return svd(wide).first(k)
    following, values = found.following * scale, (found.s * scale).to(wide.dtype)
    found = replace(found, u=found.u.to(wide.dtype), s=values, v=found.v.to(wide.dtype), following=following, method=method)
    return found if wide.shape[0] == size else found.transposed


def _top_of_gram(products: Tensor, k: int, rounding: float, generator: torch.Generator | None) -> tuple[Tensor, Method]:
    """The top k eigenvectors and at least one more, and how they were found.

    Args:
        products: the Gram matrix.
        k: how many.
        rounding: what forming the matrix and factoring it can be off by, as a part of its trace (Higham, Accuracy and stability of numerical
            algorithms, sections 3.5 and 10.1).
        generator: see `top_singular`.
    """
    size = len(products)
    if size > _SEARCHED:
        scaled = products / products.diagonal().sum()
        least = 8 * rounding / float(scaled.diagonal().max())
        ritz = krylov(lambda block: scaled @ block, random_start(size, scaled, generator), k, columns=_COLUMNS, least=least)
        place = ritz.clear(k, least)
        if place is not None and _is_all(scaled, ritz, place, rounding):
            return ritz.vectors[:, : place + 1], "certified"
    return _top_vectors(products, k + 1), "exact"


def _is_all(products: Tensor, ritz: Ritz, place: int, rounding: float) -> bool:
    """Whether no eigenvalue but the first `place` found exceeds a bound under them."""
    bound = float(ritz.values[place - 1] - (ritz.values[place - 1] - ritz.values[place]) / 4)
    found = ritz.vectors[:, :place]
    rest = (found * ritz.values[:place]) @ found.T - products
    rest.diagonal().add_(bound - rounding)
    return int(torch.linalg.cholesky_ex(rest).info) == 0


def _top_vectors(products: Tensor, count: int) -> Tensor:
    """Eigenvectors of the largest eigenvalues, by a method that misses none."""
    size = len(products)
    if products.device.type == "cpu":
        from numpy.linalg import LinAlgError as Unconverged
        from scipy.linalg import eigh  # once the matrix is tridiagonal it finds a few vectors alone, in a quarter of the time

        with contextlib.suppress(Unconverged):
            found = torch.from_numpy(eigh(products.numpy(), subset_by_index=(size - count, size - 1))[1])
            if found.shape[1] == count:  # LAPACK may return fewer, and say nothing, where eigenvalues repeat
                return found.flip(1)
    vectors: Tensor = torch.linalg.eigh(products).eigenvectors
    return vectors.flip(1)[:, :count]


def _triplets(oriented: Tensor, vectors: Tensor, k: int) -> Singular:
    """The top k singular triplets of a matrix with no more rows than columns, in the span of left vectors, with their residual."""
    v, values, turn = torch.linalg.svd(oriented.T @ vectors, full_matrices=False)
    u = vectors @ turn.T
    off = torch.linalg.vector_norm(oriented @ v[:, :k] - u[:, :k] * values[:k], dim=0)
    return Singular(u, values, v, residual=float(off.max() / values[0])).first(k)
