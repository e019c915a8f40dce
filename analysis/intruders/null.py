"""What chance gives: random updates of the same norm and rank as the real one, or of the same singular values."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.adapters import LowRank
from weightspace.analysis.intruders.layer import num_determined
from weightspace.errors import AnalysisError, one_line
from weightspace.linalg import singular_values

_ROUNDING = {"F16": 2.0**-11, "BF16": 2.0**-8}
_ARITHMETIC = 2.0**-22  # float32 itself rounds less, but the product of two factors sums up many roundings


@dataclass(frozen=True)
class Null:
    """Which random updates the real one is compared with.

    Attributes:
        draws: how many for each layer; 0 for none.
        keeps: `norm`: Gaussian factors with the Frobenius norm and the rank of the change, so that its singular values are of one size.
            `spectrum`: the change's singular values with random vectors, so that only directions are left to chance.
        generator: the source of chance, on the CPU.

    Raises:
        AnalysisError: fewer than none, no generator, or another word.
    """

    draws: int = 0
    keeps: str = "norm"
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.draws < 0 or (self.draws and self.generator is None):
            raise AnalysisError(
                f"expected null of 0 or more, and a generator to draw with, found null={self.draws}; pass generator=torch.Generator()"
            )
        if self.keeps not in ("norm", "spectrum"):
            raise AnalysisError(f"expected null_keeps='norm' or 'spectrum', found '{one_line(self.keeps, 40)}'; 'norm' is usual")

    def drawn(self, size: tuple[int, int], values: Float[Tensor, " rank"]) -> LowRank | Tensor:
        """Draw an update like one with these singular values: as a matrix where it has full rank."""
        assert self.generator is not None
        is_full = len(values) >= min(size)
        if self.keeps == "spectrum":
            turned = turned_update(size, values, self.generator)
            return turned.matrix() if is_full else turned
        norm = float(torch.linalg.vector_norm(values))
        return random_matrix(size, norm, self.generator) if is_full else random_update(size, len(values), norm, self.generator)


def random_update(size: tuple[int, int], rank: int, norm: float, generator: torch.Generator) -> LowRank:
    """Draw an update `B A` of Gaussian factors with a given Frobenius norm, in float32 on the CPU, where chance is the same everywhere.

    Args:
        size: rows and columns.
        rank: of the factors.
        norm: of their product.
        generator: the source of chance.
    """
    rows, columns = size
    a = torch.randn(rank, columns, generator=generator)
    b = torch.randn(rows, rank, generator=generator)
    drawn = float(((b.T @ b) * (a @ a.T)).sum().clamp(min=0).sqrt())
    return LowRank("", a, b, norm / drawn, size)


def random_matrix(size: tuple[int, int], norm: float, generator: torch.Generator) -> Tensor:
    """Draw a Gaussian matrix with a given Frobenius norm: an update of full rank."""
    drawn = torch.randn(size, generator=generator)
    return drawn * (norm / float(torch.linalg.vector_norm(drawn)))


def turned_update(size: tuple[int, int], values: Tensor, generator: torch.Generator) -> LowRank:
    """Draw an update with given singular values and random singular vectors, in float32 on the CPU."""
    u, v = (torch.linalg.qr(torch.randn(one, len(values), dtype=torch.float64, generator=generator))[0] for one in size)
    return LowRank("", v.T.float(), (u * values.cpu()).float(), 1.0, size)


def update_values(update: LowRank) -> Tensor:
    """Singular values of a low-rank update, from thin decompositions of its factors, in float64: as many as its rank really is.

    Factors of 16 rows may hold an update of rank 1; what is under eight roundings of the largest value, in the dtype of the factors, is no rank.
    """
    core = torch.linalg.qr(update.b.double())[1] @ torch.linalg.qr(update.a.T.double())[1].T
    values = singular_values(core * abs(update.scale))
    return values[: num_determined(values, update.b.dtype)]


def update_rank(values: Tensor, weight: Tensor, stored: str) -> int:
    """Estimate the rank of a change of a stored weight: its singular values above those that rounding alone gives.

    Rounding of entries of size `w` is noise of about `eps w / sqrt(3)` each, whose largest singular value is that times
    `sqrt(rows) + sqrt(columns)`; twice that much counts. So the merge of an adapter has the adapter's rank, though stored in few bits.

    Args:
        values: singular values of the change.
        weight: the tuned matrix.
        stored: the dtype that the tuned tensor is kept in.
    """
    rows, columns = weight.shape
    size = float(weight.double().square().mean().sqrt())
    noise = _ROUNDING.get(stored, _ARITHMETIC) * size / 3**0.5 * (rows**0.5 + columns**0.5)
    return max(1, int((values > 2 * noise).sum()))
