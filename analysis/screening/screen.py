"""Screening: telling suspicious models from clean ones by tables of numbers, by standardised logistic regression, judged out of sample.

What it learns is how the suspicious examples that it was given differ from the clean ones, nothing about others (arXiv:2602.15195 screens
adapters so, by the numbers of `weightspace.analysis.screening.features`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from weightspace.errors import AnalysisError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Table = Sequence[Mapping[str, float]]


@dataclass(frozen=True)
class Screen:
    """A fitted screen.

    Attributes:
        names: of the numbers it looks at.
        pipeline: of scikit-learn: gaps filled by medians, standardised, logistic regression.
    """

    names: tuple[str, ...]
    pipeline: Any

    @property
    def weights(self) -> dict[str, float]:
        """How much one standard deviation of each number adds to the log odds of being suspicious."""
        return dict(zip(self.names, self.pipeline[-1].coef_[0].tolist(), strict=True))

    def probability(self, features: Table) -> list[float]:
        """The probability that each is suspicious.

        Raises:
            AnalysisError: a row has other numbers than those it was fitted to.
        """
        made: list[float] = self.pipeline.predict_proba(_matrix(features, self.names))[:, 1].tolist()
        return made


@dataclass(frozen=True)
class Screening:
    """How well a screen tells models that it was not fitted to.

    Attributes:
        auc: area under the ROC curve of the scores below.
        scores: of each model, by screens fitted without its fold.
        is_suspicious: what each is.
        null: areas for permuted labels.
    """

    auc: float
    scores: tuple[float, ...]
    is_suspicious: tuple[bool, ...]
    null: tuple[float, ...]

    @property
    def p_value(self) -> float:
        """Share of permutations, the given labels among them, with an area as large."""
        return (1 + sum(one >= self.auc for one in self.null)) / (1 + len(self.null))

    def plot(self) -> "Figure":
        """Draw the scores of both kinds, and the area beside those of permuted labels."""
        from weightspace.plotting import BLUE, QUIET, VERMILION, canvas, note, style

        with style():
            figure, [[scores, areas]] = canvas(1, 2, size=(3.6, 2.8))
            bins = np.linspace(0, 1, 21)
            for kind, colour, name in ((False, BLUE, "clean"), (True, VERMILION, "suspicious")):
                mine = [score for score, one in zip(self.scores, self.is_suspicious, strict=True) if one is kind]
                scores.hist(mine, bins=bins, color=colour, alpha=0.7, label=f"{name} ({len(mine)})")
            scores.set(xlabel="score out of sample", ylabel="models")
            scores.legend()
            areas.hist(self.null, bins=bins, color=QUIET, label="permuted labels")
            areas.axvline(self.auc, color=VERMILION, label=f"{self.auc:.3f}, p = {self.p_value:.3g}")
            areas.set(xlabel="area under the ROC curve", ylabel="permutations", xlim=(-0.02, 1.02))
            for axes in (scores, areas):
                axes.yaxis.get_major_locator().set_params(integer=True)
            areas.legend()
            note(scores, "by screens fitted without the model")
        return figure


def fit_screen(features: Table, is_suspicious: Sequence[bool], *, penalty: float = 1.0) -> Screen:
    """Fit a screen: z-scores, then logistic regression with an L2 penalty, classes weighed equally.

    Args:
        features: the numbers of each model; NaN is filled with the median of the others.
        is_suspicious: what each is.
        penalty: scikit-learn's 1 / C.

    Raises:
        AnalysisError: not as many labels as models, models of one kind alone, or rows with other numbers than the first.
    """
    names = _names(features, is_suspicious)
    return Screen(names, _fitted(_matrix(features, names), np.array(is_suspicious), penalty))


def cross_validate(
    features: Table,
    is_suspicious: Sequence[bool],
    *,
    folds: int = 5,
    permutations: int = 200,
    penalty: float = 1.0,
    generator: torch.Generator | None = None,
) -> Screening:
    """Judge screens on models that they were not fitted to, and the same for permuted labels.

    Args:
        features: see `fit_screen`.
        is_suspicious: see `fit_screen`.
        folds: each with a like share of both kinds.
        permutations: of the labels.
        penalty: see `fit_screen`.
        generator: source of chance for folds and permutations; the default starts from seed 0.

    Raises:
        AnalysisError: see `fit_screen`; or fewer models of a kind than folds.
    """
    names = _names(features, is_suspicious)
    table, labels = _matrix(features, names), np.array(is_suspicious)
    fewest = min(int(labels.sum()), int((~labels).sum()))
    if not 2 <= folds <= fewest:
        raise AnalysisError(f"expected 2 to {fewest} folds, as many as the rarer kind has models, found {folds}; ask for fewer")
    generator = generator or torch.Generator().manual_seed(0)
    scores = _scores(table, labels, folds, penalty, generator)
    null = []
    for _ in range(permutations):
        shuffled = labels[torch.randperm(len(labels), generator=generator).numpy()]
        null.append(_area(shuffled, _scores(table, shuffled, folds, penalty, generator)))
    return Screening(_area(labels, scores), tuple(scores.tolist()), tuple(labels.tolist()), tuple(null))


def _scores(table: np.ndarray, labels: np.ndarray, folds: int, penalty: float, generator: torch.Generator) -> np.ndarray:
    from sklearn.model_selection import StratifiedKFold

    seed = int(torch.randint(2**31, (), generator=generator))
    scores = np.zeros(len(labels))
    for inside, outside in StratifiedKFold(folds, shuffle=True, random_state=seed).split(table, labels):
        scores[outside] = _fitted(table[inside], labels[inside], penalty).predict_proba(table[outside])[:, 1]
    return scores


def _fitted(table: np.ndarray, labels: np.ndarray, penalty: float) -> Any:
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(C=1 / penalty, class_weight="balanced", max_iter=1000)
    fill = SimpleImputer(strategy="median", keep_empty_features=True)
    return make_pipeline(fill, StandardScaler(), regression).fit(table, labels)


def _area(labels: np.ndarray, scores: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(labels, scores))


def _names(features: Table, is_suspicious: Sequence[bool]) -> tuple[str, ...]:
    if len(features) != len(is_suspicious):
        raise AnalysisError(f"expected one label for each model, found {len(is_suspicious)} for {len(features)}; give both in one order")
    if len(set(is_suspicious)) < 2:
        raise AnalysisError("expected clean and suspicious models, found one kind alone; a screen needs examples of both")
    return tuple(features[0])


def _matrix(features: Table, names: Sequence[str]) -> np.ndarray:
    for at, row in enumerate(features):
        if set(row) != set(names):
            odd = sorted(set(row) ^ set(names))[0]
            raise AnalysisError(f"row {at} and the others differ in '{odd}'; give every model the same numbers")
    table = np.array([[row[name] for name in names] for row in features], float)
    return np.where(np.isfinite(table), table, math.nan)


__all__ = ["Screen", "Screening", "cross_validate", "fit_screen"]
