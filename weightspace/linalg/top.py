"""The top few singular triplets of a matrix, proved to be the top few or taken from a full decomposition."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.adapters.low_rank import LowRank
from weightspace.errors import AnalysisError
from weightspace.linalg.krylov import Ritz, krylov, random_start
from weightspace.linalg.singular import Method, Singular, finite, gram, svd

SMALL = 192  # up to this size a full decomposition takes no longer than any short cut
_SEARCHED = 1500  # up to this size a few vectors of the Gram matrix take no longer than a search for them
_COLUMNS = 192  # a search that has not ended by then takes longer than what it is to spare
_ROUNDING = torch.finfo(torch.float64).eps


@dataclass(frozen=True, eq=False)
class Sum:
    """A matrix with a low-rank update, multiplied without the sum being written out.

    Attributes:
        base: the matrix.
        update: added to it.
    """

    base: Float[Tensor, "rows columns"]
    update: LowRank

    @property
    def shape(self) -> torch.Size:
        """Rows and columns."""
        return self.base.shape

    @property
    def T(self) -> "Sum":
        """The transposed sum."""
        return Sum(self.base.T, self.update.T)

    def __matmul__(self, vectors: Tensor) -> Tensor:
        """Multiply vectors (columns) or (columns, count)."""
        return self.base @ vectors + self.update @ vectors


def top_singular(
    matrix: Float[Tensor, "rows columns"] | Sum, k: int, *, certify: bool = True, generator: torch.Generator | None = None
) -> Singular:
    """Find the k largest singular triplets of a matrix; all where it has fewer.

    A Krylov method finds them fast but not always all: a value can hide behind its neighbours, and a slowly decaying spectrum looks like a
    few vectors. So the pairs X, t that it finds are taken out of the Gram matrix G in float64: where `m I - (G - X diag(t) X.T)` has a
    Cholesky factor for an m under the last t, by more than the rounding of G and of the factor, no other value exceeds sqrt(m), by Weyl's
    inequality. Where it has none, where the values do not end in a gap, or where the Krylov method did not get there, the Gram matrix is decomposed
    in full; where the last value is under 1e-6 of the first, the matrix itself is. `Singular.method` says which.

    Args:
        matrix: with an update that is not written out, only for `certify=False`; else it is.
        k: at least 1.
        certify: whether to prove it. If not, the matrix is only multiplied with vectors, and the result is `uncertified`.
        generator: draws the start of the iteration; what is returned depends on it only by rounding. The default draws the same each time.

    Raises:
        AnalysisError: k under 1, NaN or infinities.

    Example:
        >>> top_singular(torch.diag(torch.tensor([1.0, 3.0, 2.0])), 2).s
        tensor([3., 2.])
    """
    if k < 1:
        raise AnalysisError(f"expected at least 1 singular vector to find, found k={k}; 10 is usual")
    if not certify:
        return _uncertified(matrix, k, generator)
    wide = finite(matrix.update.applied_to(matrix.base) if isinstance(matrix, Sum) else matrix)
    size = min(wide.shape)
    if size <= SMALL or 8 * k > size or not bool(wide.any()):
        return svd(wide).first(k)
    scale = float(wide.abs().max())  # so that squares neither overflow nor vanish
    oriented = (wide if wide.shape[0] == size else wide.T).double() / scale
    vectors, method = _top_of_gram(gram(oriented), k, 4 * (sum(wide.shape) + 2) * _ROUNDING, generator)
    found = _triplets(oriented, vectors, k)
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
        from scipy.linalg import eigh  # once the matrix is tridiagonal it finds a few vectors alone, in a quarter of the time

        found = torch.from_numpy(eigh(products.numpy(), subset_by_index=(size - count, size - 1))[1])
        if found.shape[1] == count:  # LAPACK may return fewer, and say nothing, where eigenvalues repeat
            return found.flip(1)
    vectors: Tensor = torch.linalg.eigh(products).eigenvectors
    return vectors.flip(1)[:, :count]


def _triplets(oriented: Tensor | Sum, vectors: Tensor, k: int) -> Singular:
    """The top k singular triplets of a matrix with no more rows than columns, in the span of left vectors, with their residual."""
    v, values, turn = torch.linalg.svd(oriented.T @ vectors, full_matrices=False)
    u = vectors @ turn.T
    off = torch.linalg.vector_norm(oriented @ v[:, :k] - u[:, :k] * values[:k], dim=0)
    return Singular(u, values, v, residual=float(off.max() / values[0])).first(k)


def _uncertified(matrix: Tensor | Sum, k: int, generator: torch.Generator | None) -> Singular:
    """What a search finds by products with vectors alone."""
    weights = finite(matrix.base if isinstance(matrix, Sum) else matrix)
    matrix = Sum(weights, matrix.update) if isinstance(matrix, Sum) else weights
    oriented = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    start = random_start(oriented.shape[0], weights.double()[:0], generator)

    def product(block: Tensor) -> Tensor:
        return (oriented @ (oriented.T @ block.to(weights.dtype))).double()

    ritz = krylov(product, start, min(k, len(start)), columns=_COLUMNS, least=0.0)
    found = _triplets(oriented, ritz.vectors[:, : k + 1].to(weights.dtype), k)
    found = found if oriented is matrix else found.transposed
    return replace(found, method="uncertified")
