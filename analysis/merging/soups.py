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

    Means are in float64, rounded once for each try; tensors of integers are the best candidate's.

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
    alone = [score_of(evaluate(one), metric) for one in candidates]
    steps = greedy(alone, lambda taken: score_of(evaluate(_average([candidates[at] for at in taken])), metric), maximize)
    taken = [step.candidate for step in steps if step.taken]
    return Soup(_average([candidates[at] for at in taken]), next(step.score for step in reversed(steps) if step.taken), steps)


def greedy(alone: Sequence[float], score: Callable[[tuple[int, ...]], float], maximize: bool) -> tuple[Step, ...]:
    """Take candidates in the order of their own scores, each only if those that were taken do not score worse with it.

    Args:
        alone: the score of each candidate.
        score: of several candidates merged.
        maximize: whether larger is better.

    Raises:
        MergeError: no candidate has a score that is a number.
    """
    sign = 1.0 if maximize else -1.0
    # NaN last: a model that cannot be judged is no better than any other
    order = sorted(range(len(alone)), key=lambda at: -sign * alone[at] if not math.isnan(alone[at]) else math.inf)
    best = order[0]
    if math.isnan(alone[best]):
        raise MergeError(f"the score of all {len(alone)} candidates is nan; expected numbers, look at the models or the evaluation")
    taken: tuple[int, ...] = (best,)
    steps, reached = [Step(best, alone[best], alone[best], True)], alone[best]
    for at in order[1:]:
        found = score((*taken, at))
        is_taken = sign * found >= sign * reached
        steps.append(Step(at, alone[at], found, is_taken))
        if is_taken:
            taken, reached = (*taken, at), found
    return tuple(steps)


def score_of(evaluation: Evaluation, metric: str) -> float:
    """The number that counts.

    Raises:
        MergeError: the evaluation does not have it.
    """
    if not isinstance(evaluation, Mapping):
        return float(evaluation)
    if metric not in evaluation:
        raise MergeError(f"the evaluation has no metric '{metric}' (it has {', '.join(evaluation)}); name one of them as metric")
    return float(evaluation[metric])


def _average(models: Sequence[StateDict]) -> dict[str, Tensor]:
    """The mean in float64, rounded once; tensors of integers are the first model's."""
    first, made = models[0], dict[str, Tensor]()
    for number, other in enumerate(models):
        different = sorted(set(first) ^ set(other)) or [name for name in first if first[name].shape != other[name].shape]
        if different:
            raise MergeError(
                f"tensor '{different[0]}' is missing or of another shape in candidate {number}; give models of one architecture"
            )
    for name in first:
        like = first[name]
        total = sum((other[name].double() for other in models[1:]), start=like.double())
        made[name] = (total / len(models)).to(like.dtype) if like.is_floating_point() else like.clone()
    return made


__all__ = ["Evaluation", "Soup", "Step", "greedy", "greedy_soup", "score_of"]
