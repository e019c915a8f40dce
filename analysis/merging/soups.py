"""Greedy soups: the average of those models that make the average better."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from weightspace.errors import MergeError
from weightspace.symmetry import StateDict

Evaluation = float | Mapping[str, float]


@dataclass(frozen=True)
class Step:
    """One candidate, in the order in which they were tried.

    Attributes:
        candidate: its place among the candidates.
        alone: its own score.
        score: of the soup with it.
        taken: whether it stayed in.
    """

    candidate: int
    alone: float
    score: float
    taken: bool


@dataclass(frozen=True)
class Soup:
    """What a greedy soup was made of.

    Attributes:
        state_dict: the average of the candidates that were taken.
        score: its score.
        steps: every try, the best candidate first.
    """

    state_dict: dict[str, Tensor] = field(repr=False)
    score: float
    steps: tuple[Step, ...]

    @property
    def taken(self) -> tuple[int, ...]:
        """The candidates in the soup, best first."""
        return tuple(step.candidate for step in self.steps if step.taken)


def greedy_soup(
    candidates: Sequence[StateDict],
    evaluate: Callable[[StateDict], Evaluation],
    *,
    metric: str = "accuracy",
    maximize: bool = True,
) -> Soup:
    """Average models one by one, from the best on, and keep each that does not make the average worse.

    Wortsman et al., Model soups (arXiv:2203.05482), the greedy soup. The scores must come from held-out data that no candidate was trained on,
    and the soup's own score on them is flattering: it was chosen by them. For the average of a base and one fine-tuned model
    (WiSE-FT, arXiv:2109.01903) use the merge method `linear` with weights `1 - alpha` and `alpha`.

    Sums are in float64, rounded once for each try; tensors of integers are the best candidate's. One sum and one candidate are in memory.

    Args:
        candidates: state dicts or checkpoints of one architecture.
        evaluate: the score of a state dict, or several by name, such as `Task.evaluate`.
        metric: which of several scores counts.
        maximize: whether larger is better.

    Raises:
        MergeError: no candidates, different tensors, no such metric, or no candidate whose score is a number.
    """
    if not candidates:
        raise MergeError("a soup needs at least one candidate, found none; give some")
    sign = 1.0 if maximize else -1.0
    alone = [_score(evaluate(one), metric) for one in candidates]
    # NaN last: a model that cannot be judged is no better than any other
    order = sorted(range(len(candidates)), key=lambda at: -sign * alone[at] if not math.isnan(alone[at]) else math.inf)
    best = order[0]
    if math.isnan(alone[best]):
        raise MergeError(f"the score of all {len(candidates)} candidates is nan; expected numbers, look at the models or the evaluation")
    sums = {name: candidates[best][name].double() for name in candidates[best]}
    like = {name: candidates[best][name] for name in candidates[best]}
    steps, score = [Step(best, alone[best], alone[best], True)], alone[best]
    for at in order[1:]:
        tried = _plus(sums, candidates[at], at)
        found = _score(evaluate(_average(tried, 1 + sum(step.taken for step in steps), like)), metric)
        taken = sign * found >= sign * score
        steps.append(Step(at, alone[at], found, taken))
        if taken:
            sums, score = tried, found
    return Soup(_average(sums, sum(step.taken for step in steps), like), score, tuple(steps))


def _score(evaluation: Evaluation, metric: str) -> float:
    if not isinstance(evaluation, Mapping):
        return float(evaluation)
    if metric not in evaluation:
        raise MergeError(f"the evaluation has no metric '{metric}' (it has {', '.join(evaluation)}); name one of them as metric")
    return float(evaluation[metric])


def _plus(sums: Mapping[str, Tensor], other: StateDict, number: int) -> dict[str, Tensor]:
    different = sorted(set(sums) ^ set(other)) or [name for name in sums if sums[name].shape != other[name].shape]
    if different:
        raise MergeError(f"tensor '{different[0]}' is missing or of another shape in candidate {number}; give models of one architecture")
    return {name: total + other[name].double() for name, total in sums.items()}


def _average(sums: Mapping[str, Tensor], count: int, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    made: dict[str, Tensor] = {}
    for name, total in sums.items():
        made[name] = (total / count).to(like[name].dtype) if like[name].is_floating_point() else like[name].clone()
    return made


__all__ = ["Evaluation", "Soup", "Step", "greedy_soup"]
