"""The balance of a network: the scales that make every unit's incoming and outgoing weights equally large.

A unit of a positively homogeneous activation may have its incoming weights multiplied by any s > 0 and its outgoing ones by
1 / s. Among all networks that differ by this alone, the one of least squared norm is unique: in the logarithms of the scales
the squared norm is a sum of exponentials, so convex. There each unit's incoming squared norm equals its outgoing one.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from weightspace.axes import Leaf, leaves
from weightspace.checkpoint import Checkpoint
from weightspace.errors import SymmetryError
from weightspace.spec import SymmetrySpec, place
from weightspace.symmetry import Action, StateDict, Symmetry, spread

CONVERGED = 1e-12  # largest change of a scale's logarithm in a sweep
MAX_SWEEPS = 10_000


@dataclass(frozen=True)
class _Place:
    """Where a group's scale acts on a mass: its exponent, its dimension and those of its parents, outermost first."""

    group: str
    exponent: int
    at: tuple[int, ...]


@dataclass(frozen=True)
class _Mass:
    """Squared weights of one block, added up over everything that no scale acts on."""

    values: Tensor
    places: tuple[_Place, ...]

    def scaled(self, logs: Mapping[str, Tensor]) -> Tensor:
        """The squared weights after scales, given by their logarithms."""
        scaled = self.values
        for p in self.places:
            scaled = scaled * spread((2 * p.exponent * logs[p.group]).exp(), scaled.dim(), p.at)
        return scaled


def balance(weights: Checkpoint | StateDict, spec: SymmetrySpec) -> Symmetry:
    """Find the scales after which every unit's incoming and outgoing squared norms are equal.

    Where a group's exponents are not 1 and -1, each squared norm counts as often as its exponent says: the balance is the
    point of least total squared norm. Running statistics do not count. A unit that has weights on one side alone has no
    balance and stays as it is, and so do groups on whose consumers nothing depends (a convolution before its normalisation).

    Args:
        weights: a checkpoint or a state dict; it is not changed.
        spec: its symmetry.

    Returns:
        An element that scales the groups of symmetry `scale` and moves nothing. Networks of one orbit are brought to networks
        that differ by an order alone: `act(balance(act(g, x)), act(g, x))` is `act(balance(x), x)` in another order.

    Raises:
        SymmetryError, ShapeMismatchError: weights that are not of the spec, or not finite.

    Example:
        >>> spec = SymmetrySpec.parse({"fc1.weight": "h 1", "fc2.weight": "1 h'"}, groups={"h": {"size": 1, "symmetry": "scale"}})
        >>> x = {"fc1.weight": torch.tensor([[8.0]]), "fc2.weight": torch.tensor([[2.0]])}
        >>> balance(x, spec).actions["h"].diagonal
        tensor([0.5000], dtype=torch.float64)
    """
    spec.check(weights)
    masses = _masses(weights, spec)
    names = [g.name for g in spec.movable if g.symmetry == "scale" and any(p.group == g.name for m in masses for p in m.places)]
    logs = {name: torch.zeros(*(p.size for p in spec.parents(name)), spec.groups[name].size, dtype=torch.float64) for name in names}
    for _ in range(MAX_SWEEPS):
        if max([_relax(name, masses, logs) for name in names], default=0.0) <= CONVERGED:
            break
    still = {name: torch.arange(spec.groups[name].size).expand(logs[name].shape) for name in names}
    return Symmetry(spec, {name: Action(still[name], logs[name].exp()) for name in names})


def _relax(name: str, masses: list[_Mass], logs: dict[str, Tensor]) -> float:
    """Balance one group's units, all other groups held; the largest change of a logarithm."""
    inward, outward = torch.zeros_like(logs[name]), torch.zeros_like(logs[name])
    slope = 1
    for mass in masses:
        mine = [p for p in mass.places if p.group == name]
        if not mine:
            continue
        scaled = mass.scaled(logs)
        for p in mine:
            rest = [k for k in range(scaled.dim()) if k not in p.at]
            total = (scaled.sum(rest) if rest else scaled).permute(_order(p.at))
            (inward if p.exponent > 0 else outward).add_(total, alpha=abs(p.exponent))
            slope = max(slope, abs(p.exponent))
        # Where a group stands twice, its units change each other's norms: half a step cannot overshoot.
        slope = max(slope, 2) if len(mine) > 1 else slope
    alive = (inward > 0) & (outward > 0)
    ratio = torch.where(alive, outward, 1.0).log() - torch.where(alive, inward, 1.0).log()
    logs[name] += ratio / (4 * slope)
    return float(ratio.abs().max()) / (4 * slope) if ratio.numel() else 0.0


def _order(at: tuple[int, ...]) -> list[int]:
    """How to permute the dimensions that are left, in order of the block, into the order of `at`."""
    left = sorted(at)
    return [left.index(k) for k in at]


def _masses(weights: Checkpoint | StateDict, spec: SymmetrySpec) -> list[_Mass]:
    """The squared weights that scales act on, a tensor at a time."""
    scales = {g.name for g in spec.movable if g.symmetry == "scale"}
    made: list[_Mass] = []
    for name, axes in spec.tensors.items():
        if name in spec.statistics or not any(leaf.group in scales for axis in axes for leaf in leaves(axis)):
            continue
        tensor = weights[name].detach()
        if not tensor.is_floating_point():
            continue
        if not bool(torch.isfinite(tensor).all()):
            raise SymmetryError(f"tensor '{name}' has values that are not finite; balance needs finite weights")
        for block in spec.blocks(name, tensor.double().square()):
            acted = [
                _Place(term.group, term.exponent, (*place(spec, name, block, j), j))
                for j, term in enumerate(block.terms)
                if isinstance(term, Leaf) and term.group in scales and term.power
            ]
            kept = sorted({k for p in acted for k in p.at})
            if acted and block.view.numel():
                rest = [k for k in range(block.view.dim()) if k not in kept]
                values = block.view.sum(rest) if rest else block.view
                made.append(_Mass(values, tuple(_Place(p.group, p.exponent, tuple(map(kept.index, p.at))) for p in acted)))
    return made
