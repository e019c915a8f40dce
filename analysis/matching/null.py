"""What matching gains by chance: the share of the distance that it removes between random networks that are like two given ones."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from weightspace.analysis.matching.match import Match, match
from weightspace.axes import Axis, leaves
from weightspace.checkpoint import Checkpoint
from weightspace.errors import SymmetryError
from weightspace.registry import Registry
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict

Draw = Callable[[Tensor, torch.Generator], Tensor]
"""Redraws one float tensor whose first axis is the producer's."""

SEED = 6_442_450_967  # not 0 or 1: networks drawn from the same numbers as their null would not be random beside it

nulls: Registry[Draw] = Registry("null")


@dataclass(frozen=True)
class Null:
    """The reductions of some draws.

    Attributes:
        reductions: the share of the L2 distance that matching removes, for each draw.
    """

    reductions: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Their mean."""
        return sum(self.reductions) / len(self.reductions)

    @property
    def std(self) -> float:
        """Their standard deviation; 0 for a single draw."""
        count = len(self.reductions)
        return (sum((r - self.mean) ** 2 for r in self.reductions) / (count - 1)) ** 0.5 if count > 1 else 0.0

    def corrected(self, found: Match) -> float:
        """The share of the distance that a match removes beyond chance."""
        return found.reduction - self.mean


def null_reduction(
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    spec: SymmetrySpec,
    *,
    draws: int = 3,
    generator: torch.Generator | None = None,
    null: str = "spectrum",
    method: str = "weight",
    **options: Any,
) -> Null:
    """Match random networks like a with random networks like b.

    Matching chooses the best of very many orders, so the distance of any two networks falls: 4 to 6 % for wide untrained ones.
    A reduction says something only beyond this.

    Args:
        a: one network; it is not changed.
        b: the other.
        spec: the symmetry of both.
        draws: how many pairs to draw.
        generator: source of chance; the default starts from a seed of its own.
        null: what stays of each tensor: `spectrum` its singular values between the producer's axis and the rest (vectors are
            shuffled), `rows` the values in each row of the producer's axis in another order, `normal` its mean and spread alone.
        method: of matching, as for the networks themselves.
        options: of the method.

    Raises:
        UnknownNameError: no such null or method.
        SymmetryError: no draw is asked for.
    """
    if draws < 1:
        raise SymmetryError(f"expected at least 1 draw of random networks, found {draws}; 3 are usual")
    generator = generator or torch.Generator().manual_seed(SEED)
    draw = nulls[null]
    reductions = []
    for _ in range(draws):
        first, second = (null_network(x, spec, draw, generator) for x in (a, b))
        reductions.append(match(first, second, spec, method, generator=generator, **options).reduction)
    return Null(tuple(reductions))


def null_network(weights: Checkpoint | StateDict, spec: SymmetrySpec, draw: Draw, generator: torch.Generator) -> dict[str, Tensor]:
    """Redraw every float tensor of a network but running statistics; tied ones stay tied."""
    made: dict[str, Tensor] = {}
    for name in weights:
        owner = spec.aliases.get(name, name)
        tensor = weights[owner if owner in weights else name].detach()
        if owner in made:
            made[name] = made[owner]
        elif owner in spec.tensors and owner not in spec.statistics and tensor.is_floating_point() and tensor.numel() > 1:
            j = producer(spec.axes(owner))
            made[owner] = made[name] = draw(tensor.movedim(j, 0), generator).movedim(0, j).contiguous()
        else:
            made[name] = tensor
    return {name: made[name] for name in weights}


def producer(axes: tuple[Axis, ...]) -> int:
    """The axis that a tensor's outputs are counted by: the first with a group on the producer's side, else the first."""
    return next((j for j, axis in enumerate(axes) if any(not leaf.dual for leaf in leaves(axis))), 0)


def _spectrum(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Keep the singular values, draw the singular vectors uniformly."""
    from weightspace.analysis.connectivity.null import spectrum_matched

    return spectrum_matched({"": tensor}, generator)[""]


def _rows(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Shuffle inside every row, each in its own way; a vector as a whole."""
    rows = tensor.flatten(1) if tensor.dim() > 1 else tensor[None]
    order = torch.rand(rows.shape, generator=generator).argsort(-1).to(rows.device)
    return rows.gather(1, order).reshape(tensor.shape)


def _normal(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Draw normal numbers of the same mean and standard deviation."""
    drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor)
    return drawn * tensor.std() + tensor.mean()


nulls.add("spectrum", _spectrum)
nulls.add("rows", _rows)
nulls.add("normal", _normal)
