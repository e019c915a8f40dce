"""Convergent learning: do two networks have the same units? Correlations of the units of one layer, and the ways to pair them off.

Li, Yosinski, Clune, Lipson and Hopcroft, Convergent Learning: Do different neural networks learn the same representations? (arXiv:1511.07543).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.analysis.functional.recording import chosen, flat, recorded_pairs, shuffled
from weightspace.analysis.moments import Moments
from weightspace.checkpoint import Checkpoint
from weightspace.symmetry import StateDict
from weightspace.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Pairing:
    """Units of one layer in two networks, paired off by their correlations.

    Attributes:
        correlations: of each unit of the first with each of the second; NaN for a unit that does not vary.
        one_to_one: for each unit of the first its partner, -1 for none, so that the sum of correlations is greatest (section 3.2).
        best: for each unit of the first the unit of the second that correlates most, -1 for one that does not vary (the semi-matching).
        absolute: whether the sign of a correlation is left out.
    """

    correlations: Float[Tensor, "units others"]
    one_to_one: tuple[int, ...]
    best: tuple[int, ...]
    absolute: bool

    @property
    def matched(self) -> list[float]:
        """The correlation of each pair, in order of the first's units."""
        return self._of(self.one_to_one)

    @property
    def greatest(self) -> list[float]:
        """The greatest correlation of each unit of the first."""
        return self._of(self.best)

    @property
    def dead(self) -> int:
        """Units of both networks that do not vary, which have no correlations."""
        missing = self.correlations.isnan()
        return int(missing.all(0).sum() + missing.all(1).sum())

    def values(self) -> dict[str, float]:
        """Mean correlations of the pairs and of the semi-matching, and the gap between the two: how far from one-to-one it is."""
        one, semi = _mean(self.matched), _mean(self.greatest)
        return {"one_to_one": one, "semi_matching": semi, "gap": semi - one, "dead": float(self.dead)}

    def plot(self) -> "Figure":
        """Draw the correlations of all units, sorted (as figure 3 of the paper), beside the table of correlations in order of the pairs."""
        from weightspace.plotting import BLUE, INK, VERMILION, canvas, note, style

        paired = [unit for unit, partner in enumerate(self.one_to_one) if partner >= 0]
        order = sorted(paired, key=lambda unit: -self._signed(unit, self.one_to_one[unit]))
        with style():
            figure, [[curves, table]] = canvas(1, 2, size=(4.2, 3.2))
            for found, colour, name in ((self.greatest, BLUE, "semi-matching"), (self.matched, VERMILION, "one to one")):
                curves.plot(sorted(found, reverse=True), color=colour, label=f"{name} (mean {_mean(found):.3f})")
            curves.set(xlabel="units of the first network, sorted", ylabel="correlation")
            curves.legend()
            table.grid(False)
            table.set(xlabel="units of the second, in the same order", ylabel="units of the first, best pairs first")
            if order:
                rows = self.correlations[order][:, [self.one_to_one[unit] for unit in order]].cpu()
                image = table.imshow(rows.numpy(), vmin=0 if self.absolute else -1, vmax=1, interpolation="nearest")
                figure.colorbar(image, ax=table, label="correlation")
            else:
                table.set(xticks=[], yticks=[])
                table.text(0.5, 0.5, "no unit varies", transform=table.transAxes, ha="center", color=INK)
            note(curves, f"gap {self.values()['gap']:.3f}, {self.dead} dead units")
        return figure

    def _signed(self, unit: int, other: int) -> float:
        value = float(self.correlations[unit, other])
        return abs(value) if self.absolute else value

    def _of(self, partners: Sequence[int]) -> list[float]:
        return [self._signed(unit, other) for unit, other in enumerate(partners) if other >= 0]


def pair_units(correlations: Float[Tensor, "units others"], *, absolute: bool = False) -> Pairing:
    """Pair units off by their correlations, one to one by the Hungarian method and each with its best.

    Args:
        correlations: as `Moments.correlations` gives them.
        absolute: whether the sign is left out, for odd activations, whose units may be flipped.

    Example:
        >>> pair_units(torch.tensor([[0.9, 0.8], [0.8, 0.1]])).one_to_one
        (1, 0)
    """
    from scipy.optimize import linear_sum_assignment

    scored = correlations.abs() if absolute else correlations
    alive = ~scored.isnan()
    units, others = alive.any(1).nonzero().flatten(), alive.any(0).nonzero().flatten()
    one_to_one, best = [-1] * len(scored), [-1] * len(scored)
    if len(units) and len(others):
        dense = scored[units][:, others]
        for row, column in zip(*linear_sum_assignment(dense.cpu().numpy(), maximize=True), strict=True):
            one_to_one[int(units[row])] = int(others[column])
        for unit, column in zip(units.tolist(), dense.argmax(1).tolist(), strict=True):
            best[unit] = int(others[column])
    return Pairing(correlations, tuple(one_to_one), tuple(best), absolute)


def gather(
    task: Task,
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    *,
    layers: Sequence[str] | None = None,
    positions: str = "samples",
    generator: torch.Generator | None = None,
) -> dict[str, Moments]:
    """Sum second moments of each layer of two networks over a task's data.

    Args:
        task: module and data of both.
        a: one network.
        b: the other.
        layers: names of submodules; by default every linear and convolutional layer, before its activation.
        positions: of feature maps and sequences: each a sample, pooled, or units of their own.
        generator: if given, b sees the examples of each batch in another order: a null in which units fit by chance and by place alone.
    """
    names = chosen(task, a, layers)
    moments = {name: Moments() for name in names}
    for name, left, right in recorded_pairs(task, a, b, names, positions=positions):
        moments[name].add(flat(left), flat(right if generator is None else shuffled(right, generator)))
    return moments


def convergence(
    task: Task,
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    *,
    layers: Sequence[str] | None = None,
    positions: str = "samples",
    absolute: bool = False,
    generator: torch.Generator | None = None,
) -> dict[str, Pairing]:
    """Pair off the units of each layer of two networks by how they correlate over a task's data; see `gather` and `pair_units`."""
    moments = gather(task, a, b, layers=layers, positions=positions, generator=generator)
    return {name: pair_units(one.correlations(), absolute=absolute) for name, one in moments.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


__all__ = ["Pairing", "convergence", "gather", "pair_units"]
