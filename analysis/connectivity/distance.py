"""How much alignment shortens the distance between two networks, against what it shortens by chance."""

from dataclasses import dataclass

import torch

from weightspace.analysis.connectivity.null import Align, null_pairs
from weightspace.analysis.connectivity.paths import expect_alike
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.symmetry import StateDict

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class L2Reduction:
    """Distances before and after alignment, and how much shorter the distance of random networks got.

    Attributes:
        before: distance from a to b.
        after: distance from a to the aligned b.
        null: reductions of the random networks.
    """

    before: float
    after: float
    null: tuple[float, ...]

    @property
    def reduction(self) -> float:
        """The share of the distance that alignment took away."""
        return 1 - self.after / self.before if self.before else 0.0

    @property
    def null_mean(self) -> float:
        """The share that it takes away from random networks, on average."""
        return sum(self.null) / len(self.null)

    @property
    def corrected(self) -> float:
        """The reduction beyond that of random networks."""
        return self.reduction - self.null_mean


def l2_reduction(
    a: Checkpoint | StateDict, b: Checkpoint | StateDict, align: Align, *, generator: torch.Generator, nulls: int = 3
) -> L2Reduction:
    """Measure how much an alignment shortens the distance from a to b, and how much it does for random networks.

    Matching shortens the distance of unrelated networks too, by order statistics alone; what it does beyond that is `corrected`.

    Args:
        a: one network.
        b: another, not aligned.
        align: `align(a, b)` returns b moved onto a; both are state dicts.
        generator: draws the random networks, on the CPU.
        nulls: how many pairs of them.

    Raises:
        TaskError: no pair of random networks is asked for.
        UnknownNameError: one network has tensors that the other has not.
        ShapeMismatchError: tensors differ in shape.
    """
    one, other = state_of(a), state_of(b)
    before, after = distance(one, other), distance(one, align(one, other))
    pairs = null_pairs(one, other, align, generator, nulls)
    shares = [1 - distance(first, aligned) / distance(first, second) for first, second, aligned in pairs]
    return L2Reduction(before, after, tuple(shares))


def distance(a: StateDict, b: StateDict) -> float:
    """Euclidean distance of the float tensors, tied ones once, running statistics left out."""
    expect_alike(a, b)
    seen: set[tuple[int, int]] = set()
    total = 0.0
    for name, tensor in a.items():
        where = tensor.data_ptr(), b[name].data_ptr()
        if not tensor.is_floating_point() or name.rpartition(".")[2] in _STATISTICS or where in seen:
            continue
        seen.add(where)
        total += (tensor.double() - b[name].to(tensor.device).double()).square().sum().item()
    return float(total**0.5)
