"""Method `sinkhorn`: soft permutations that follow a gradient, of weights alone or of the loss between two networks."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from weightspace.analysis.connectivity.paths import blend
from weightspace.analysis.matching.best import Best
from weightspace.analysis.matching.family import Rules, solve_one
from weightspace.analysis.matching.match import Match, matching_method, result
from weightspace.analysis.matching.midpoint import cycled, on_device, path_loss
from weightspace.analysis.matching.pair import Local, Pair
from weightspace.analysis.matching.search import Run, descend, usual_shakes
from weightspace.analysis.matching.soft import relaxed_value, sinkhorn, softly
from weightspace.axes import leaves
from weightspace.checkpoint import Checkpoint, state_of
from weightspace.dtypes import widened
from weightspace.errors import TaskError, UnknownNameError
from weightspace.spec import SymmetrySpec
from weightspace.symmetry import StateDict, Symmetry, act
from weightspace.task import Batch, Task

OBJECTIVES: Mapping[str, tuple[float, ...]] = {"weight": (0.5,), "midpoint": (0.5,), "path": (0.25, 0.5, 0.75)}
"""What can be made large, with the times at which a loss is measured."""

STARTS = ("uniform", "weight")
NOISE = 0.01  # of scores at the start


@matching_method("sinkhorn")
def match_sinkhorn(
    a: Checkpoint | StateDict,
    b: Checkpoint | StateDict,
    spec: SymmetrySpec,
    *,
    generator: torch.Generator,
    task: Task | None = None,
    objective: str = "weight",
    start: str = "uniform",
    restarts: int = 1,
    steps: int = 200,
    learning_rate: float = 0.1,
    temperature: tuple[float, float] = (1.0, 0.1),
    check_every: int = 10,
    batch_statistics: bool = False,
    solver: str | None = None,
) -> Match:
    """Learn a soft permutation of every group by gradients through Sinkhorn iterations, then round it by assignments.

    Peña et al., Re-basin via implicit Sinkhorn differentiation (arXiv:2212.12042). Departures: the weights' objective is their inner
    product, which for permutations says what their distance says, but which soft ones cannot better by shrinking b; the temperature
    falls geometrically; a soft sign, the hyperbolic tangent of a score, stands at every entry of a group with signs; and the element
    kept is the best rounded one that was seen, the identity among them. Families of nested groups (heads and what is inside them) are
    not relaxed: they stay as weight matching has them.

    Args:
        a: what is aligned to.
        b: what is moved.
        spec: the symmetry of both.
        generator: of the scores' start and of the times on the path.
        task: the loss, for the objectives `midpoint` and `path`.
        objective: `weight`: the inner product; `midpoint`: the loss half-way; `path`: the loss at a random time in each step, judged by the
            mean over a quarter, a half and three quarters.
        start: whether scores begin near zero, where all permutations are alike, or leaning to what weight matching finds.
        restarts: how many times to do it all, each from scores of its own.
        steps: of Adam.
        learning_rate: of Adam.
        temperature: what scores are divided by at the first step and at the last.
        check_every: steps between roundings.
        batch_statistics: whether batch norms use the statistics of each batch.
        solver: of linear assignments.

    Raises:
        UnknownNameError: no such objective or start.
        TaskError: an objective that needs a task has none, or the networks do not fit its module.
    """
    for kind, given, known in (("Sinkhorn objective", objective, OBJECTIVES), ("start", start, STARTS)):
        if given not in known:
            raise UnknownNameError.of(kind, given, known)
    if objective != "weight" and task is None:
        raise TaskError(f"objective '{objective}' needs a loss, and there is no task; give one, or objective 'weight'")
    left, right = (_floats(x, task) for x in (a, b))
    device = task.device if task else torch.device("cpu")
    pair, rules = Pair.of(left, right, spec, device=device), Rules.of(spec, matrices=False, solver=solver)
    still = {name: spec.identity().action(name) for family in pair.families for name in family.members}
    matched = descend(pair, rules, still, anchored=True, max_sweeps=100, generator=generator, shakes=usual_shakes(pair)).actions
    nested = {name: matched[name] for family in pair.families if len(family.members) > 1 for name in family.members}
    problem = _Problem(pair, left, right, nested, rules, None if objective == "weight" else task, OBJECTIVES[objective], batch_statistics)
    free = [family.root for family in pair.families if len(family.members) == 1]
    optimised = _Climb(problem, steps, learning_rate, temperature, check_every)
    runs = []
    for _ in range(max(1, restarts)):
        scores = {name: _scores(spec, name, matched[name] if start == "weight" else None, generator) for name in free}
        runs.append(optimised.run({name: s.to(device).requires_grad_() for name, s in scores.items()}, still, generator))
    best = max(runs, key=lambda run: run.objective[-1])
    return result(a, b, Symmetry(spec, best.actions), method="sinkhorn", ties={}, runs=runs)


@dataclass(frozen=True)
class _Problem:
    """What is made large: of hard permutations, and of soft ones.

    Attributes:
        pair: both networks.
        a, b: their tensors, floats in float32 or wider.
        nested: what is done to groups that are not relaxed.
        rules: of rounding.
        task: the loss; None for the inner product of weights.
        times: where the loss of the path is measured.
        batch_statistics: whether batch norms use the statistics of each batch.
    """

    pair: Pair
    a: StateDict
    b: StateDict
    nested: Mapping[str, Local]
    rules: Rules
    task: Task | None
    times: tuple[float, ...]
    batch_statistics: bool

    def height(self, actions: Mapping[str, Local]) -> float:
        """The objective of an element: the inner product, or the loss with its sign turned."""
        if self.task is None:
            return self.pair.value(actions)
        moved = act(Symmetry(self.pair.spec, actions), self.b)
        return -path_loss(self.a, moved, self.task, times=self.times, batch_statistics=self.batch_statistics)

    def soft_height(self, matrices: Mapping[str, Tensor], batch: Batch, t: float) -> Tensor:
        """The objective of soft permutations, on one batch and at one time; differentiable."""
        if self.task is None:
            return relaxed_value(self.pair, self.nested, matrices)
        spec, moved = self.pair.spec, dict(self._b)
        for name, axes in spec.tensors.items():
            if moved[name].is_floating_point() and any(leaf.group in matrices for axis in axes for leaf in leaves(axis)):
                moved[name] = softly(spec, name, moved[name], matrices)
        moved |= {name: moved[owner] for name, owner in spec.aliases.items() if name in moved}
        return -self.task.loss_of(blend((1 - t, t), (self.a, moved)), batch, batch_statistics=self.batch_statistics)

    @cached_property
    def _b(self) -> StateDict:
        return act(Symmetry(self.pair.spec, self.nested), self.b)


@dataclass(frozen=True)
class _Climb:
    """Gradient steps on scores while the temperature falls, with a look at the rounded permutations now and then."""

    problem: _Problem
    steps: int
    learning_rate: float
    temperature: tuple[float, float]
    check_every: int

    def run(self, scores: Mapping[str, Tensor], still: Mapping[str, Local], generator: torch.Generator) -> Run:
        """Climb from given scores; the best element seen, at least the identity."""
        problem, steps, assignments = self.problem, self.steps, 0
        best = Best(problem.height, still)
        optimizer = torch.optim.Adam([torch.zeros(1), *scores.values()], lr=self.learning_rate)
        batches = cycled(problem.task) if problem.task else itertools.repeat(None)
        for step in range(steps + 1):
            warmth = self.temperature[0] * (self.temperature[1] / self.temperature[0]) ** (step / max(1, steps))
            matrices = {name: _matrix(tensor, warmth) for name, tensor in scores.items()}
            if step % self.check_every == 0 or step == steps:
                rounded = {name: solve_one(name, matrix.detach(), problem.rules)[0] for name, matrix in matrices.items()}
                best.look({**still, **problem.nested, **rounded})
                assignments += len(rounded)
            if step == steps or not scores:
                break
            t = float(torch.rand((), generator=generator)) if len(problem.times) > 1 else problem.times[0]
            optimizer.zero_grad()
            torch.autograd.backward(-problem.soft_height(matrices, next(batches), t))
            optimizer.step()
        return best.run(f"stopped after {steps} steps" if scores else "no group to relax, all are nested", assignments)


def _scores(spec: SymmetrySpec, group: str, lean: Local | None, generator: torch.Generator) -> Tensor:
    """Scores near zero, shape (1, n, n), with those of the signs behind them (2, n, n); half of each row on what they lean to."""
    count, signed = spec.groups[group].size, spec.groups[group].symmetry == "sign"
    made = NOISE * torch.randn(1 + signed, count, count, generator=generator, dtype=torch.float64)
    if lean is not None:
        matrix = lean.as_matrix
        made[0] += matrix.abs() * math.log(count)
        if signed:
            made[1] += matrix
    return made


def _matrix(scores: Tensor, temperature: float) -> Tensor:
    """The soft permutation of scores, with soft signs where there are scores for them."""
    mixing = sinkhorn(scores[0] / temperature)
    return mixing * scores[1].tanh() if len(scores) > 1 else mixing


def _floats(weights: Checkpoint | StateDict, task: Task | None) -> dict[str, Tensor]:
    """All tensors of a network, on the task's device if there is one, floats in float32 or wider."""
    state_dict = on_device(weights, task) if task else {name: tensor.detach() for name, tensor in state_of(weights).items()}
    return {name: widened(tensor) for name, tensor in state_dict.items()}
