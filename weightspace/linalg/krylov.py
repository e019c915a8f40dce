"""Block Krylov: the top eigenpairs of a symmetric operator from its products with a few vectors at a time."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 8  # an eigenvalue that repeats is found up to so many times
# A pair has converged when its residual is this part of the gap beside its value, so that its vector is good to as much; or of the largest value.
_OF_GAP, _OF_LARGEST = 1e-8, 1e-14


@dataclass(frozen=True, eq=False)
class Ritz:
    """The best guesses at the top eigenpairs; each value is at most the true one at its place, and may be far under it.

    Attributes:
        values: descending.
        vectors: orthonormal, a column each.
        residuals: `|A x - value x|`: each value is so close to some eigenvalue, not always to the one at its place.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor

    @property
    def converged(self) -> int:
        """How many of the first pairs have converged."""
        gaps = self.values[:-1] - self.values[1:]
        within = torch.cat([gaps[:1], torch.minimum(gaps[1:], gaps[:-1])]) * _OF_GAP
        is_open = self.residuals[:-1] > within.clamp_min(_OF_LARGEST * float(self.values[0]))
        return int(is_open.int().argmax()) if bool(is_open.any()) else len(gaps)

    def clear(self, k: int, least: float) -> int | None:
        """The first place from k on where the converged values end in a gap, before a value known well enough to say so.

        Args:
            k: how many are wanted.
            least: a gap is wider than this part of the largest value.
        """
        gaps = self.values[:-1] - self.values[1:]
        is_clear = (gaps > least * self.values[0]) & (self.residuals[1:] < gaps / 10)
        places = torch.nonzero(is_clear[k - 1 : self.converged])
        return k + int(places[0]) if len(places) else None


def krylov(apply: Callable[[Tensor], Tensor], start: Tensor, k: int, *, columns: int, least: float, patience: int | None = None) -> Ritz:
    """Grow a block Krylov space until the top k eigenpairs have converged and end in a gap, or until it has so many columns.

    Golub and Underwood, The block Lanczos method (1977), every block made orthogonal to all before it, so that no eigenpair is found twice.

    Args:
        apply: the operator, on (size, block); symmetric, in the dtype of `start`.
        start: orthonormal (size, block).
        k: how many eigenpairs.
        columns: at most so many.
        least: see `Ritz.clear`.
        patience: with so many columns, the first pair alone is enough to end.
    """
    size, block = start.shape
    columns = min(columns, size) // block * block
    basis, projected = start.new_zeros(size, columns), start.new_zeros(columns, columns)
    basis[:, :block] = start
    found, looked = None, 0
    for end in range(block, columns + 1, block):
        image = apply(basis[:, end - block : end])
        inner = basis[:, :end].T @ image
        projected[:end, end - block : end], projected[end - block : end, :end] = inner, inner.T
        rest, coupling = _orthonormal(image - basis[:, :end] @ inner, basis[:, :end])
        if end >= max(2 * k, looked + looked // 4 + block) or end + block > columns:  # looking costs more, the larger the space
            looked = end
            found = _ritz(basis[:, :end], projected[:end, :end], coupling, k)
            if found.clear(k, least) is not None or (patience is not None and end >= patience and found.converged):
                break
        if end < columns:
            basis[:, end : end + block] = rest
    assert found is not None
    return found


def _orthonormal(block: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal columns for a block, orthogonal to the basis, and their coefficients. Twice is enough, thrice for columns of mere rounding."""
    coupling = torch.eye(block.shape[1], dtype=block.dtype, device=block.device)
    for _ in range(3):
        block, coefficients = torch.linalg.qr(block - basis @ (basis.T @ block))
        coupling = coefficients @ coupling
    return block, coupling


def _ritz(basis: Tensor, projected: Tensor, coupling: Tensor, k: int) -> Ritz:
    count = min(2 * k + coupling.shape[0], len(projected))
    values, inner = torch.linalg.eigh(projected)
    values, inner = values.flip(0)[:count], inner.flip(1)[:, :count]
    residuals = torch.linalg.vector_norm(coupling @ inner[-coupling.shape[0] :], dim=0)
    return Ritz(values, basis @ inner, residuals)


def random_start(size: int, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw an orthonormal block to start from, in the dtype and on the device of a tensor; the same each time without a generator."""
    chance = torch.Generator().manual_seed(0) if generator is None else generator
    drawn = torch.randn(size, min(BLOCK, size), generator=chance, device=chance.device, dtype=torch.float64)
    return orthonormal(drawn.to(like.device, like.dtype))


def orthonormal(columns: Tensor) -> Tensor:
    """An orthonormal basis of the span of columns."""
    basis: Tensor = torch.linalg.qr(columns).Q
    return basis
