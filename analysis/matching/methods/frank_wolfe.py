"""Method `frank_wolfe`: weight matching of all groups at once on the hull of the permutations, then rounded."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from weightspace.analysis.matching.family import Rules, solve_one
from weightspace.analysis.matching.match import Match, matching_method, result
from weightspace.analysis.matching.pair import Local, Pair
from weightspace.analysis.matching.search import Run, descend, usual_shakes
from weightspace.analysis.matching.soft import relaxed_value
from weightspace.checkpoint import Checkpoint
from weightspace.errors import UnknownNameError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict, Symmetry

STARTS = ("barycenter", "identity", "weight")
TOLERANCE = 1e-6  # of what the best vertex gains: a smaller rise is not worth a step
Points = Mapping[str, Tensor]


@matching_method("frank_wolfe")
def match_frank_wolfe(
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    spec: SymmetrySpec,
    *,
    generator: torch.Generator,
    starts: Sequence[str] = STARTS,
    max_steps: int = 100,
    max_sweeps: int = 100,
    matrices: bool = False,
    masks: Mapping[str, Tensor] | None = None,
    solver: str | None = None,
    device: torch.device | str = "cpu",
) -> Match:
    """Maximise the inner product of a with the moved b over all groups together.

    Crisostomi et al., C2M3 (arXiv:2405.17897), section 3, between two networks: the gradient in every group's matrix, an assignment
    each for the best vertex, one step length for all. Departures: along a step the objective is a polynomial of known degree, so the
    length is exact; tolerances are relative; a rounded point is carried on by the coordinate ascent of weight matching, which also
    solves families of nested groups, held during the descent; and each start gives at least its own element.

    Args:
        a: what is aligned to.
        b: what is moved.
        spec: the symmetry of both.
        generator: of the order in which the coordinate ascent visits.
        starts: one run each: the `barycenter` of the hull; the `identity`; `weight`, half-way between the barycenter and what weight
            matching finds, since at that itself no step rises.
        max_steps: of one run.
        max_sweeps: of its coordinate ascent.
        matrices: let orthogonal matrices act on groups that are `orthogonal` or `linear`.
        masks: for some tensors, numbers to multiply both with (zeros leave out), broadcast to their shape.
        solver: of linear assignments.
        device: where inner products are computed.

    Raises:
        UnknownNameError: no such start.
    """
    for name in starts:
        if name not in STARTS:
            raise UnknownNameError.of("start", name, STARTS)
    pair, rules = Pair.of(a, b, spec, masks=masks, device=device), Rules.of(spec, matrices=matrices, solver=solver)
    still = {name: spec.identity().action(name) for family in pair.families for name in family.members}
    runs = [_run(pair, rules, still, name, max_steps, max_sweeps, generator) for name in starts or STARTS[:1]]
    best = max(runs, key=lambda run: run.objective[-1])
    return result(a, b, Symmetry(spec, best.actions), method="frank_wolfe", ties=best.ties, runs=runs)


def _run(
    pair: Pair, rules: Rules, still: Mapping[str, Local], start: str, max_steps: int, max_sweeps: int, generator: torch.Generator
) -> Run:
    """One descent from one start, rounded and carried on; at least the start's own element."""
    own, spent = dict(still), 0
    if start == "weight":
        matched = descend(pair, rules, still, anchored=True, max_sweeps=max_sweeps, generator=generator, shakes=usual_shakes(pair))
        own, spent = dict(matched.actions), matched.assignments
    free = [family.root for family in pair.families if len(family.members) == 1]
    centre = {name: _centre(len(own[name].index), name in rules.signed | rules.mixed) for name in free}
    here = {name: own[name].as_matrix.double() for name in free}
    points = centre if start == "barycenter" else here if start == "identity" else {n: (centre[n] + here[n]) / 2 for n in free}
    ended = _Hull(pair, rules, {name: action for name, action in own.items() if name not in points}).ascend(points, max_steps)
    rounded = {**own, **{name: solve_one(name, matrix, rules)[0] for name, matrix in ended.points.items()}}
    kept = rounded if pair.value(rounded) > pair.value(own) else own
    last = descend(pair, rules, kept, anchored=False, max_sweeps=max_sweeps, generator=generator)
    spent += last.assignments + len(free) * (ended.steps + 2)
    return Run(last.actions, (pair.value(own), *last.objective), f"{ended.stopped}, then {last.stopped}", spent, last.ties)


@dataclass(frozen=True)
class _Ended:
    """Where an ascent ended, after how many steps, and why."""

    points: Points
    steps: int
    stopped: str


@dataclass(frozen=True)
class _Hull:
    """The objective on the hull of the permutations of some groups, all others held."""

    pair: Pair
    rules: Rules
    held: Mapping[str, Local]

    def value(self, points: Points) -> Tensor:
        """The objective at one matrix for each group; differentiable."""
        return relaxed_value(self.pair, self.held, points)

    def ascend(self, points: Points, max_steps: int) -> _Ended:
        """Frank-Wolfe steps until none rises."""
        if not points:
            return _Ended(points, 0, "all groups are nested")
        for step in range(max_steps):
            slopes = self.slopes(points)
            vertices = {name: solve_one(name, slope, self.rules) for name, slope in slopes.items()}
            ways = {name: vertices[name][0].as_matrix.double() - point for name, point in points.items()}
            rise = sum(float((slopes[name] * way).sum()) for name, way in ways.items())
            if rise <= TOLERANCE * sum(abs(gain) for _, gain in vertices.values()):
                return _Ended(points, step, f"no vertex rises after {step} steps")
            t = self.length(points, ways)
            if t == 0:
                return _Ended(points, step, f"no step rises after {step} steps")
            points = {name: point + t * ways[name] for name, point in points.items()}
        return _Ended(points, max_steps, f"stopped after {max_steps} steps")

    def slopes(self, points: Points) -> Points:
        """The gradient in every group's matrix."""
        free = {name: point.detach().clone().requires_grad_() for name, point in points.items()}
        return dict(zip(free, torch.autograd.grad(self.value(free), list(free.values())), strict=True))

    def length(self, points: Points, ways: Points) -> float:
        """The best step between 0 and 1: a polynomial's maximum, whose degree is that of the block with the most moving dimensions."""
        degree = max(sum(group in points for group in block.groups) for block in self.pair.blocks)

        def at(t: float) -> float:
            return float(self.value({name: point + t * ways[name] for name, point in points.items()}))

        return highest(at, degree)


def highest(function: Callable[[float], float], degree: int) -> float:
    """Where a polynomial of known degree is highest between 0 and 1; 0 unless it is higher elsewhere.

    Example:
        >>> round(highest(lambda t: t - t**2, 2), 6)
        0.5
    """
    grid = (1 - np.cos(np.linspace(0, np.pi, degree + 1))) / 2
    heights = np.array([function(float(t)) for t in grid])
    curve = np.polynomial.Polynomial.fit(grid, heights, degree, domain=[0, 1])
    roots = curve.deriv().roots()
    inside = [float(root.real) for root in np.atleast_1d(roots) if abs(root.imag) < 1e-9 and 0 < root.real < 1]
    best = max([1.0, *inside], key=lambda t: float(curve(t)))
    return best if function(best) > heights[0] else 0.0


def _centre(count: int, balanced: bool) -> Tensor:
    """The barycenter of the permutations, or, where everything stands beside its negative, zero."""
    return torch.full((count, count), 0.0 if balanced else 1 / count, dtype=torch.float64)
