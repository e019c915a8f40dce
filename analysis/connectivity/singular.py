"""The singular-vector alignment R of two networks: how far the directions that their weights act in agree."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.connectivity.null import Align, null_pairs
from weightspace.analysis.connectivity.paths import expect_alike
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.errors import TaskError, UnknownNameError
from weightspace.symmetry import StateDict

GAMMAS = (0.0, 0.1, 0.3, 0.5)


@dataclass(frozen=True)
class Alignment:
    """R of one weight, or of all, at one gamma.

    Attributes:
        name: of the tensor; empty for all together.
        gamma: singular values below this share of the largest were left out.
        value: R, from -1 to 1; not a number where nothing was kept.
        low: the least that R can be when near-equal singular values at the threshold are kept or left out one by one.
        high: the most.
        kept: singular values kept, the mean of both networks.
    """

    name: str
    gamma: float
    value: float
    low: float
    high: float
    kept: float


@dataclass(frozen=True)
class SingularAlignment:
    """R of two networks over a sweep of gamma: of all weights together, and of each."""

    totals: tuple[Alignment, ...]
    layers: tuple[Alignment, ...]


def singular_alignment(
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    gammas: Sequence[float] = GAMMAS,
    *,
    names: Collection[str] | None = None,
    tie: float = 1e-3,
) -> SingularAlignment:
    """Measure R between a and an already aligned b, for each gamma.

    Ito, Yamada and Kumagai, "Analysis of Linear Mode Connectivity via Permutation-Based Weight Matching" (arXiv:2402.04051):
    `R = sum_l sum_ij (u_i^a . u_j^b)(v_i^a . v_j^b) / sum_l n_l`, over singular values of at least gamma times the largest. Here n_l is
    the mean number of values kept in a and b, so that R(a, a) = 1. The sum over a whole subspace of equal singular values does
    not depend on the vectors chosen in it; only a threshold that cuts through one would make it arbitrary. Such a run of near-equal
    values is kept whole, and `low` and `high` say what cutting it would do. Values that are zero up to rounding have no directions, and are left out.

    Args:
        a: one network.
        b: another, aligned to a.
        gammas: thresholds, 0 to 1.
        names: of the tensors; by default every float tensor of two or more dimensions, its later ones taken together, tied ones once.
        tie: neighbouring singular values nearer than this share of the largest are near-equal.

    Raises:
        UnknownNameError: tensors that one of the two does not have.
        ShapeMismatchError: tensors of different shapes.
        TaskError: values that are not finite.
    """
    one, other = state_of(a), state_of(b)
    expect_alike(one, other)
    chosen = matrices(one) if names is None else list(names)
    unknown = next((name for name in chosen if name not in one), None)
    if unknown is not None:
        raise UnknownNameError.of("tensor", unknown, one)
    overlaps = {name: _Overlap.of(name, one[name], other[name].to(one[name].device)) for name in chosen}
    cuts = {gamma: {name: overlap.cut(gamma, tie) for name, overlap in overlaps.items()} for gamma in gammas}
    layers = tuple(cut.alignment(name, gamma) for name in chosen for gamma in gammas for cut in [cuts[gamma][name]])
    return SingularAlignment(tuple(_total(gamma, list(cuts[gamma].values())) for gamma in gammas), layers)


def null_alignment(
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    align: Align,
    gammas: Sequence[float] = GAMMAS,
    *,
    generator: torch.Generator,
    nulls: int = 3,
) -> dict[float, tuple[float, ...]]:
    """Measure R of random networks with the singular values of a and b, after alignment: one value by gamma for each pair.

    Args:
        a: one network.
        b: another, not aligned.
        align: `align(a, b)` returns b moved onto a; both are state dicts.
        gammas: thresholds, 0 to 1.
        generator: draws the random networks, on the CPU.
        nulls: how many pairs of them.

    Raises:
        TaskError: no pair of random networks is asked for, or values are not finite.
    """
    pairs = null_pairs(state_of(a), state_of(b), align, generator, nulls)
    found = [singular_alignment(first, aligned, gammas).totals for first, _, aligned in pairs]
    return {gamma: tuple(totals[at].value for totals in found) for at, gamma in enumerate(gammas)}


def matrices(state_dict: StateDict) -> list[str]:
    """Names of the float tensors of two or more dimensions, tied ones once."""
    found: dict[int, str] = {}
    for name, tensor in state_dict.items():
        if tensor.ndim >= 2 and tensor.is_floating_point() and tensor.numel():
            found.setdefault(tensor.data_ptr(), name)
    return list(found.values())


@dataclass(frozen=True)
class _Cut:
    """Sums of overlaps and numbers of values kept, for every place where the threshold may fall; `whole` keeps near-equal values together."""

    sums: Float[Tensor, "rows cols"]
    kept: Float[Tensor, "rows cols"]
    whole: tuple[int, int]

    def alignment(self, name: str, gamma: float) -> Alignment:
        ratios = self.sums / self.kept  # 0 / 0 where nothing is kept
        return Alignment(name, gamma, ratios[self.whole].item(), ratios.min().item(), ratios.max().item(), self.kept[self.whole].item())


def _total(gamma: float, cuts: list[_Cut]) -> Alignment:
    """R of all weights; its bounds hold for every combination of cuts, and may be wider than what any of them gives."""
    summed, kept = (sum(getattr(cut, part)[cut.whole].item() for cut in cuts) for part in ("sums", "kept"))
    if not kept:
        return Alignment("", gamma, math.nan, math.nan, math.nan, 0.0)
    least, most = (sum(getattr(cut.kept, end)().item() for cut in cuts) or 1.0 for end in ("min", "max"))
    low, high = (sum(getattr(cut.sums, end)().item() for cut in cuts) for end in ("min", "max"))
    return Alignment("", gamma, summed / kept, low / (most if low > 0 else least), high / (least if high > 0 else most), kept)


@dataclass(frozen=True)
class _Overlap:
    """Singular values of one weight in both networks, and the sum of overlaps of their first i and j pairs of vectors at [i, j]."""

    values_a: Float[Tensor, " rank_a"]
    values_b: Float[Tensor, " rank_b"]
    sums: Float[Tensor, "cuts_a cuts_b"]

    @classmethod
    def of(cls, name: str, a: Tensor, b: Tensor) -> "_Overlap":
        (left, values_a, right), (other_left, values_b, other_right) = _decomposed(name, a), _decomposed(name, b)
        overlaps = (left.mT @ other_left) * (right @ other_right.mT)
        return cls(values_a, values_b, torch.nn.functional.pad(overlaps.cumsum(0).cumsum(1), (1, 0, 1, 0)))

    def cut(self, gamma: float, tie: float) -> _Cut:
        (first_a, last_a), (first_b, last_b) = (_places(values, gamma, tie) for values in (self.values_a, self.values_b))
        kept = (torch.arange(first_a, last_a + 1)[:, None] + torch.arange(first_b, last_b + 1)).double() / 2
        return _Cut(self.sums[first_a : last_a + 1, first_b : last_b + 1].cpu(), kept, (last_a - first_a, last_b - first_b))


def _decomposed(name: str, tensor: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values in float64, without those that are zero up to the rounding of the tensor's own dtype."""
    matrix = tensor.detach().flatten(1).double()
    if not matrix.isfinite().all():
        raise TaskError(f"tensor '{name}' has values that are not finite, and so no singular vectors; leave it out by `names`")
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    rank = int((values > values.max() * max(matrix.shape) * torch.finfo(tensor.dtype).eps).sum())
    return left[:, :rank], values[:rank], right[:rank]


def _places(values: Tensor, gamma: float, tie: float) -> tuple[int, int]:
    """The fewest and most values that a threshold keeps, if it falls anywhere in the run of near-equal values around it."""
    shares = (values / values[:1]).tolist()
    at = first = last = sum(share >= gamma for share in shares)
    if 0 < at < len(shares) and shares[at - 1] - shares[at] <= tie:
        while first > 0 and shares[first - 1] - shares[first] <= tie:
            first -= 1
        while last < len(shares) and shares[last - 1] - shares[last] <= tie:
            last += 1
    return first, last
