"""Evolution of a recipe: looking for the values that a user's evaluation scores best, so that an interrupted search can go on.

A search is a function of its seed and of the scores alone. Run again with the scores that are known, it proposes the same values in
the same order, finds them scored, and evaluates only what comes after. (Another machine may fit a Gaussian process differently in the
last bits, another scipy may draw in another order; should that move a proposal, it is evaluated.)
"""

import math
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weightspace.analysis.merging.search_space import Point, Points, Space, key_of
from weightspace.errors import MergeError, UnknownNameError, one_line

Score = Callable[[Point], float]
"""What a search asks: the score of a point, to be made small."""

FAILED = 1e30  # the score of what failed, as searches see it: finite, for they subtract
REPEATS = 50  # proposals for each try, after which a search that only repeats itself ends


@dataclass(frozen=True)
class Try:
    """One set of values, and what came of it.

    Attributes:
        values: by place in the recipe.
        score: what the evaluation returned; None where it failed.
        failure: why it failed.
    """

    values: Mapping[str, Any]
    score: float | None
    failure: str | None = None

    @property
    def key(self) -> str:
        """The values as canonical JSON."""
        return key_of(self.values)


@dataclass(frozen=True)
class Best:
    """What a search found.

    Attributes:
        values: with the best score, by place in the recipe.
        score: theirs.
        recipe: with the values in it.
        tries: all of them, in order, those that were known among them.
    """

    values: Mapping[str, Any]
    score: float
    recipe: Mapping[str, Any] = field(repr=False)
    tries: tuple[Try, ...] = field(repr=False)


def optimize(
    space: Space,
    objective: Callable[[dict[str, Any]], float],
    *,
    method: str = "gp",
    tries: int = 32,
    seed: int = 0,
    known: Mapping[str, float | None] | None = None,
    on_try: Callable[[Try], None] | None = None,
    maximize: bool = False,
) -> Best:
    """Look for the recipe that an evaluation scores lowest.

    Args:
        space: the recipes, as `search_space.space` reads them.
        objective: scores a recipe; one that it fails on counts as a try, and the search goes on.
        method: one of `SEARCHES`.
        tries: how many different recipes are scored, known ones among them; fewer where the space holds fewer.
        seed: of all chance in the search.
        known: scores of earlier tries by `Try.key`, None for those that failed; they are not evaluated again.
        on_try: told of every try that was evaluated, before the next one.
        maximize: look for the highest score.

    Raises:
        MergeError: no tries, or all of them failed.
        UnknownNameError: no such method.

    Example:
        >>> from weightspace.analysis.merging.search_space import space
        >>> found = space({"weight": {"choose": [0.2, 0.5, 0.9]}})
        >>> optimize(found, lambda recipe: abs(recipe["weight"] - 0.6), method="random").recipe
        {'weight': 0.5}
    """
    if method not in SEARCHES:
        raise UnknownNameError.of("search method", method, SEARCHES)
    if tries < 1:
        raise MergeError(f"expected at least 1 try, found {tries}; allow more")
    trial = _Trial(space, objective, tries, known or {}, on_try, -1.0 if maximize else 1.0)
    with suppress(_SpentError):
        SEARCHES[method](trial, space, np.random.default_rng(seed), tries)
    scored = [(trial.sign * one.score, at, one.score) for at, one in enumerate(trial.done.values()) if one.score is not None]
    made = tuple(trial.done.values())
    if not scored:
        raise MergeError(f"all {len(made)} tries failed, the first with: {made[0].failure}; mend the evaluation or the ranges")
    _, at, score = min(scored)
    return Best(made[at].values, score, space.fill(made[at].values), made)


class _SpentError(Exception):
    """There are no tries left."""


@dataclass
class _Trial:
    """The tries made so far; called with a point, it scores the recipe there unless that is known."""

    space: Space
    objective: Callable[[dict[str, Any]], float]
    tries: int
    known: Mapping[str, float | None]
    on_try: Callable[[Try], None] | None
    sign: float
    done: dict[str, Try] = field(default_factory=dict)
    repeats: int = 0

    def __call__(self, point: Point) -> float:
        values = self.space.at(point)
        key = key_of(values)
        if key in self.done:
            self.repeats += 1
        else:
            self.done[key] = self._known(key, values) if key in self.known else self._evaluated(values)
        if len(self.done) >= min(self.tries, self.space.count) or self.repeats >= REPEATS * self.tries:
            raise _SpentError
        score = self.done[key].score
        return FAILED if score is None else self.sign * score

    def _known(self, key: str, values: Mapping[str, Any]) -> Try:
        score = self.known[key]
        return Try(values, None, "failed before") if score is None or not math.isfinite(score) else Try(values, float(score))

    def _evaluated(self, values: Mapping[str, Any]) -> Try:
        recipe = self.space.fill(values)
        try:
            score = float(self.objective(recipe))
            made = Try(values, score) if math.isfinite(score) else Try(values, None, f"the evaluation returned {score}")
        except Exception as error:  # whatever a user's code raises
            made = Try(values, None, one_line(f"{type(error).__name__}: {error}", 300))
        if self.on_try is not None:
            self.on_try(made)
        return made


def _random(score: Score, space: Space, chance: np.random.Generator, tries: int) -> None:
    """Draw evenly."""
    while True:
        score(chance.random(len(space.dimensions)))


def _spread(chance: np.random.Generator, count: int, size: int) -> Points:
    """Draw points such that each of `count` equal parts of each axis holds one (a Latin hypercube)."""
    parts = np.stack([chance.permutation(count) for _ in range(size)], axis=1)
    return (parts + chance.random((count, size))) / count


def _differential_evolution(score: Score, space: Space, chance: np.random.Generator, tries: int) -> None:
    """Storn and Price, Differential Evolution (1997): `best/1/bin`; from new points whenever all have become one."""
    from scipy.optimize import differential_evolution

    size = len(space.dimensions)
    options = {"mutation": (0.3, 0.9), "recombination": 0.8, "tol": 0, "polish": False, "maxiter": 10**6, "seed": chance}
    while True:
        members = _spread(chance, max(5, min(4 * size + 2, tries // 5)), size)
        try:
            differential_evolution(score, [(0, 1)] * size, init=members, **options)
        except RuntimeError as error:  # scipy puts one in the place of a ValueError, as ours are, from the first generation
            raise error.__cause__ or error from None


def _nelder_mead(score: Score, space: Space, chance: np.random.Generator, tries: int) -> None:
    """Nelder and Mead's simplex (1965), from the middle of the space; from a random point whenever it has settled."""
    from scipy.optimize import minimize

    size = len(space.dimensions)
    start = np.full(size, 0.5)
    while True:
        steps = np.where(start > 0.5, -0.25, 0.25) * np.eye(size)
        options = {"initial_simplex": np.vstack([start, start + steps]), "xatol": 1e-4, "fatol": 1e-8, "maxiter": 10**6, "maxfev": 10**6}
        minimize(score, start, method="Nelder-Mead", bounds=[(0, 1)] * size, options=options)
        start = chance.random(size)


def _gaussian_process(score: Score, space: Space, chance: np.random.Generator, tries: int) -> None:
    """Jones, Schonlau and Welch, Efficient global optimization (1998): the largest expected improvement under a Gaussian process."""
    size = len(space.dimensions)
    points = [*_spread(chance, max(3, min(2 * size + 2, tries // 3)), size)]
    scores = [score(one) for one in points]
    tried = {key_of(space.at(one)) for one in points}
    while True:
        near = points[int(np.argmin(scores))] + chance.normal(0, 0.05, (500, size))
        candidates = np.concatenate([chance.random((1000, size)), near.clip(0, 1)])
        gain = _expected_improvement(space, points, scores, candidates, int(chance.integers(2**31)))
        ranked = (candidates[at] for at in gain.argsort()[::-1])
        chosen = next((one for one in ranked if key_of(space.at(one)) not in tried), None)
        if chosen is None:  # hardly anything is left
            return _random(score, space, chance, tries)
        tried.add(key_of(space.at(chosen)))
        points.append(chosen)
        scores.append(score(chosen))


def _expected_improvement(space: Space, points: list[Point], scores: list[float], candidates: Points, seed: int) -> Point:
    """How much lower than the lowest score each candidate is expected to be; what failed counts as the worst that did not."""
    from scipy.stats import norm
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern, WhiteKernel

    seen = space.coordinates(np.array(points))
    kernel = Matern(np.ones(seen.shape[1]), (0.05, 20), nu=2.5) + WhiteKernel(1e-4, (1e-8, 1e-1))
    worst = max((one for one in scores if one < FAILED), default=0.0)
    values = np.array([min(one, worst) for one in scores])
    process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of length scales at the ends of their ranges
        process.fit(seen, values)
        mean, deviation = process.predict(space.coordinates(candidates), return_std=True)
    ahead = values.min() - mean
    share = ahead / np.maximum(deviation, 1e-12)
    gain: Point = ahead * norm.cdf(share) + deviation * norm.pdf(share)
    return gain


SEARCHES: Mapping[str, Callable[[Score, Space, np.random.Generator, int], None]] = {
    "random": _random,
    "differential_evolution": _differential_evolution,
    "nelder_mead": _nelder_mead,
    "gp": _gaussian_process,
}
