"""The top few singular triplets of a decomposed matrix after a low-rank update, without any work on the matrix itself."""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from weightspace.adapters.low_rank import LowRank
from weightspace.errors import AnalysisError
from weightspace.linalg.krylov import krylov, orthonormal, random_start
from weightspace.linalg.singular import LinAlgError, Singular, finite
from weightspace.linalg.threads import threads_for
from weightspace.linalg.top import top_singular

_SMALL = 192  # up to this size a full decomposition takes no longer than a search
_COLUMNS, _PATIENCE = 640, 96  # a search that gets on slowly is better begun anew under what it has found
_LEAST = 1e-10


def updated(base: Singular, update: LowRank, k: int) -> Singular:
    """Find the k largest singular triplets of `base + update`; all where there are fewer.

    In the bases of the base's singular vectors, with what of the update's factors lies outside of them beside, the sum is `M = D + b a.T`, a diagonal matrix
    with an update of the same rank r, which multiplies a vector in O(n r). A Krylov method on the inverse of `m - M M.T`, for an m above the
    largest value, finds the top triplets, and the inertia of a 2r by 2r matrix counts how many eigenvalues of `M M.T` exceed a bound
    (Haynsworth 1968; Golub, Some modified matrix eigenvalue problems, 1973): where it counts as many as were found above it, none was
    missed. Else M is written out and left to `top_singular`. `Singular.method` says which.

    So, but for that last resort, the sum is only multiplied with vectors, by the base's decomposition and the update's factors. That asks for the base's decomposition
    of a single adapter, too: a search in `base + update` without it proves nothing, and misses vectors in a slowly decaying spectrum.

    Args:
        base: all triplets of the matrix, from `svd`.
        update: without magnitudes.
        k: at least 1.

    Returns:
        The triplets with their coordinates among the base's vectors as `left` and `right`: `left[i, j]` is the scalar product of the base's left
        vector i and the sum's left vector j. Their sum of squares is under 1 where a vector lies partly outside.
        Their residual counts what the base's decomposition is off by, too: much of the sum, where the update takes away most of the base.

    Raises:
        AnalysisError: a base that lacks triplets or is of another shape, an update with magnitudes, with NaN or infinities, or k under 1.

    Example:
        >>> from weightspace.linalg import svd
        >>> base = svd(torch.diag(torch.tensor([3.0, 2.0])))
        >>> update = LowRank("w", torch.tensor([[0.0, 1.0]]), torch.tensor([[0.0], [1.0]]), 2.0, (2, 2))
        >>> updated(base, update, 1).s
        tensor([4.])
    """
    _check(base, update, k)
    with threads_for(len(base.s)):
        return _updated(base, _core(base, update), k)


def _updated(base: Singular, core: "_Core", k: int) -> Singular:
    size = len(core.diagonal)
    inner = None
    if size > _SMALL and size >= 8 * k and size >= 4 * core.a.shape[1]:
        with contextlib.suppress(LinAlgError):
            inner = _searched(core, k)
    inner = inner or top_singular(core.matrix(), k)
    dtype = base.u.dtype
    left, right = inner.u[:size].to(dtype), inner.v[:size].to(dtype)
    # Written from the other side: MKL takes thirty times as long for a large matrix times ten columns in some of their layouts.
    u, v = (left.T @ base.u.T).T, (right.T @ base.v.T).T
    if core.beyond_left is not None:
        u += core.beyond_left @ inner.u[size:].to(dtype)
    if core.beyond_right is not None:
        v += core.beyond_right @ inner.v[size:].to(dtype)
    # Weyl: a base that is off by a rounding of its largest value puts the sum off by as much, of which far less may be left.
    inherited = torch.finfo(dtype).eps * float(base.s.max()) / float(inner.s.max()) if size and bool(inner.s.any()) else 0.0
    return replace(inner, u=u, s=inner.s.to(dtype), v=v, left=left, right=right, residual=inner.residual + inherited)


def _check(base: Singular, update: LowRank, k: int) -> None:
    shape = (base.u.shape[-2], base.v.shape[-2])
    if k < 1:
        raise AnalysisError(f"expected at least 1 singular vector to find, found k={k}; 10 is usual")
    if base.u.ndim != 2 or base.s.shape[0] != min(shape):
        raise AnalysisError(
            f"expected all {min(shape)} singular triplets of one base of shape {shape}, found {tuple(base.s.shape)}; take svd(base)"
        )
    if (update.rows, update.columns) != shape:
        raise AnalysisError(
            f"expected an update of shape {shape} as its base has, found {(update.rows, update.columns)} for '{update.target}'; "
            "check which base the adapter was trained on"
        )
    if update.magnitude is not None:
        raise AnalysisError(
            f"the update of '{update.target}' sets magnitudes, so it is not of low rank; take top_singular(update.applied_to(base))"
        )


@dataclass(frozen=True, eq=False)
class _Core:
    """`M = D + b a.T`: D has the diagonal, and rows or columns of zeros for what lies outside of the base's vectors."""

    diagonal: Tensor
    a: Tensor
    b: Tensor
    beyond_left: Tensor | None
    beyond_right: Tensor | None

    def matrix(self) -> Tensor:
        product = self.b @ self.a.T
        product.diagonal().add_(self.diagonal)
        return product

    def transposed_times(self, vectors: Tensor) -> Tensor:
        """`M.T @ vectors`."""
        return self._spread(vectors, len(self.a)) + self.a @ (self.b.T @ vectors)

    def times(self, vectors: Tensor) -> Tensor:
        """`M @ vectors`."""
        return self._spread(vectors, len(self.b)) + self.b @ (self.a.T @ vectors)

    def _spread(self, vectors: Tensor, rows: int) -> Tensor:
        spread = vectors.new_zeros(rows, vectors.shape[1])
        spread[: len(self.diagonal)] = self.diagonal[:, None] * vectors[: len(self.diagonal)]
        return spread


def _core(base: Singular, update: LowRank) -> _Core:
    a, b = finite(update.a).to(base.v.dtype).T, finite(update.b * update.scale).to(base.u.dtype)
    inside_a, beyond_a, outside_a = _resolved(base.v, a)
    inside_b, beyond_b, outside_b = _resolved(base.u, b)
    return _Core(base.s.double(), torch.cat([inside_a, outside_a]).double(), torch.cat([inside_b, outside_b]).double(), beyond_b, beyond_a)


def _resolved(basis: Tensor, factor: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Coordinates of a factor's columns in a basis; an orthonormal basis of what lies outside, and the coordinates in it."""
    inside = (factor.T @ basis).T
    if basis.shape[0] == basis.shape[1]:
        return inside, None, inside[:0]
    beyond, outside = torch.linalg.qr(factor - basis @ inside)
    beyond, turn = torch.linalg.qr(beyond - basis @ (basis.T @ beyond))  # what is mere rounding may have fallen back into the basis
    return inside, beyond, turn @ outside


class _Inertia:
    """Counts eigenvalues of `N = M M.T`, and solves with `m - N`: N is the squared diagonal with an update of rank 2r, `c K c.T`."""

    def __init__(self, core: _Core) -> None:
        rank = core.a.shape[1]
        self.squares = torch.zeros(len(core.b), dtype=torch.float64, device=core.b.device)
        self.squares[: len(core.diagonal)] = core.diagonal**2
        self.c = torch.cat([core.b, core._spread(core.a, len(core.b))], dim=1)
        eye = torch.eye(rank, dtype=torch.float64, device=core.b.device)
        self.inverse = torch.cat([torch.cat([torch.zeros_like(eye), eye], 1), torch.cat([eye, -core.a.T @ core.a], 1)])

    def above(self, bound: float) -> int | None:
        """How many eigenvalues exceed a bound; None where rounding hides it."""
        distances = self._distances(bound)
        values = torch.linalg.eigvalsh(self._small(distances))
        if bool((values.abs() <= 1e-13 * torch.linalg.vector_norm(values)).any()):
            return None
        return int((distances > 0).sum()) + int((values < 0).sum()) - len(values) // 2

    def solver(self, bound: float, found: Tensor) -> Callable[[Tensor], Tensor]:
        """The inverse of `bound - N`, on what is orthogonal to the eigenvectors that were found."""
        distances = self._distances(bound)
        factors = torch.linalg.lu_factor(self._small(distances))
        spread = self.c / distances[:, None]

        def solve(block: Tensor) -> Tensor:
            block = _without(found, block)
            return _without(found, spread @ torch.linalg.lu_solve(*factors, spread.T @ block) - block / distances[:, None])

        return solve

    def _distances(self, bound: float) -> Tensor:
        distances = self.squares - bound
        return torch.where(distances == 0, torch.finfo(torch.float64).eps, distances)  # as if a square were a rounding larger

    def _small(self, distances: Tensor) -> Tensor:
        return self.inverse + (self.c / distances[:, None]).T @ self.c


def _searched(core: _Core, k: int) -> Singular | None:
    """The top k triplets of the core, where they were found and counted."""
    share = float(torch.linalg.matrix_norm(core.a)) or 1.0
    scale = float(core.diagonal[0] + torch.linalg.matrix_norm(core.b) * share)
    if not scale:
        return None
    unit = replace(core, diagonal=core.diagonal / scale, a=core.a / share, b=core.b * (share / scale))
    inertia = _Inertia(unit)
    vectors = _vectors(inertia, k)
    if vectors is None:
        return None
    far, values, turn = torch.linalg.svd(unit.transposed_times(vectors), full_matrices=False)
    near, place = vectors @ turn.T, len(values) - 1
    last, following = (float(value) ** 2 for value in values[-2:])
    # Counted twice, at two bounds: what rounding could do to one count, it would have to do to both.
    if last - following < 1e-11 or any(inertia.above(last - part * (last - following)) != place for part in (0.25, 0.5)):
        return None
    off = torch.linalg.vector_norm(unit.times(far) - near * values, dim=0)[:k]
    return Singular(near, values * scale, far, "certified", float(off.max() / values[0])).first(k)


def _vectors(inertia: _Inertia, k: int) -> Tensor | None:
    """The top k eigenvectors, with more until a gap, and one beyond it; from the top down, each search under what was found before."""
    found = inertia.c[:, :0]
    while True:
        lacking, size = k - found.shape[1], len(found)
        start = orthonormal(_without(found, random_start(size, found, None)))
        solve = inertia.solver(_just_above(inertia, found.shape[1]), found)
        ritz = krylov(solve, start, lacking, columns=_COLUMNS, least=_LEAST, patience=_PATIENCE)
        place = ritz.clear(lacking, _LEAST)
        if place is not None:
            return orthonormal(torch.cat([found, ritz.vectors[:, : place + 1]], dim=1))
        more = min(ritz.converged, lacking - 1)
        if not more:
            return None
        found = orthonormal(torch.cat([found, ritz.vectors[:, :more]], dim=1))


def _without(found: Tensor, block: Tensor) -> Tensor:
    return block - found @ (found.T @ block)


def _just_above(inertia: _Inertia, count: int) -> float:
    """A bound about a thousandth above the largest eigenvalue after the first `count`."""
    low, high = 0.0, 1.0 + 1e-3
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        above = inertia.above(middle)
        low, high = (low, middle) if above is not None and above <= count else (middle, high)
    return high + 1e-3 * high
