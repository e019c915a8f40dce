"""The rows of an evaluation card: what one way to get networks is worth, how new they are, and how unlike each other."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from weightspace.analysis.generation.card.judging import Judged, judge
from weightspace.analysis.generation.card.novelty import Places, Stacked, length, median_distance, median_iou, nearest_distance, nearest_iou
from weightspace.analysis.generation.target import Target
from weightspace.spec import SymmetrySpec
from weightspace.task import Task

Clock = Callable[[], float]
"""Tells seconds."""

PAIRS = 24
"""Pairs of networks that their diversity is the median of."""


@dataclass(frozen=True)
class Row:
    """One way to get networks, at one setting.

    Attributes:
        method: what it is called.
        setting: what can be turned, if anything.
        value: of the setting.
        networks: that were judged.
        parameters: of each, of the module that runs it.
        score, score_std, score_max: on the test examples: accuracy, or what the card says; more is better.
        ensemble: accuracy of their mean probabilities.
        iou: mean over networks of the largest IoU of wrong predictions with a network of the zoo; of the zoo, with another one.
        distance: median distance to the nearest network of the zoo modulo symmetry; of the zoo, to another one.
        diversity_iou: median IoU over pairs.
        diversity_distance: median distance over pairs modulo symmetry.
        calibration: mean expected calibration error.
        milliseconds: that making one took, training included where there is any, fitting of a generator left out.
        validation_score, validation_iou: on the validation examples.
        missing: why there are no values.
    """

    method: str
    setting: str = ""
    value: float | None = None
    networks: int = 0
    parameters: int | None = None
    score: float | None = None
    score_std: float | None = None
    score_max: float | None = None
    ensemble: float | None = None
    iou: float | None = None
    distance: float | None = None
    diversity_iou: float | None = None
    diversity_distance: float | None = None
    calibration: float | None = None
    milliseconds: float | None = None
    validation_score: float | None = None
    validation_iou: float | None = None
    missing: str = ""

    @property
    def name(self) -> str:
        """The method with its setting."""
        if self.value is None:
            return self.method
        if self.method == "mean":
            return "mean of all" if self.value == 0 else f"mean of {self.value:g}"
        if self.setting == "steps":
            return f"{self.method} for {self.value:g} steps"
        return f"{self.method}, {self.setting} {self.value:.3g}"


@dataclass(frozen=True, eq=False)
class Entry:
    """A row with what it was computed from.

    Attributes:
        row: the numbers.
        judged: the networks on the test examples; None where there are none.
        is_rival: whether it stands against the generator at equal novelty, where their networks are of one size.
    """

    row: Row
    judged: Judged | None = None
    is_rival: bool = False


@dataclass(frozen=True, eq=False)
class Made:
    """Networks to be judged.

    Attributes:
        networks: (networks, *shape) by tensor name, plain.
        target: of them.
        seconds: that making all of them took.
    """

    networks: Stacked
    target: Target
    seconds: float | None = None


def timed(make: Callable[[], Stacked], target: Target, clock: Clock = time.perf_counter) -> Made:
    """Make networks by the clock."""
    start = clock()
    networks = make()
    return Made(networks, target, clock() - start)


@dataclass(frozen=True, eq=False)
class Zoo:
    """The networks that all others are compared with.

    Attributes:
        validation: what they are worth on the validation examples.
        test: on the test examples.
        places: where they lie.
    """

    validation: Judged
    test: Judged
    places: Places


@dataclass(frozen=True, eq=False)
class Bench:
    """What all rows of a card are measured by.

    Attributes:
        validation: examples to choose settings by.
        test: examples to judge by.
        zoo: None without checkpoints.
        compared: networks of a row whose distances are taken; 0 takes none.
        generator: draws the pairs of a diversity.
    """

    validation: Task
    test: Task
    zoo: Zoo | None
    compared: int
    generator: torch.Generator

    @classmethod
    def of(
        cls, tasks: tuple[Task, Task], zoo: Made | None, spec: SymmetrySpec | None, compared: int, generator: torch.Generator
    ) -> "Bench":
        """Judge the zoo, whose symmetry is given, on validation and test examples."""
        if zoo is None:
            return cls(*tasks, None, compared, generator)
        first, second = (judge(task, zoo.networks, zoo.target) for task in tasks)
        return cls(*tasks, Zoo(first, second, Places.of(zoo.networks, spec)), compared, generator)

    @property
    def parameters(self) -> int:
        """Of the networks that it measures."""
        return sum(parameter.numel() for parameter in self.test.module.parameters())

    def likeness(self, made: Made) -> float | None:
        """How like the zoo networks are on the validation examples: their IoU, minus their distance where there is none."""
        found = _iou(judge(self.validation, made.networks, made.target), self.zoo.validation if self.zoo else None)
        if found is not None:
            return found
        distance = self._distances(made)[0]
        return None if distance is None else -distance

    def entry(self, method: str, made: Made, *, setting: str = "", value: float | None = None, is_rival: bool = False) -> Entry:
        """Measure networks."""
        chosen, judged = (judge(task, made.networks, made.target) for task in (self.validation, self.test))
        distance, apart = self._distances(made)
        count = length(made.networks)
        row = Row(
            method,
            setting,
            value,
            count,
            self.parameters,
            **_scores(judged),
            iou=_iou(judged, self.zoo.test if self.zoo else None),
            distance=distance,
            diversity_distance=apart,
            milliseconds=None if made.seconds is None else 1000 * made.seconds / count,
            validation_score=float(chosen.scores.mean()),
            validation_iou=_iou(chosen, self.zoo.validation if self.zoo else None),
        )
        return Entry(row, judged, is_rival)

    def zoo_entry(self) -> Entry:
        """Measure the zoo by itself, each network beside the others."""
        if self.zoo is None:
            return Entry(Row("zoo", missing="no checkpoints given"))
        validation, test, places = self.zoo.validation, self.zoo.test, self.zoo.places
        several = len(places) > 1
        iou, chosen = (_iou(one, one, leave_one_out=True) if several else None for one in (test, validation))
        distance, apart = self._measured(self._some(places), leave_one_out=True) if several else (None, None)
        row = Row(
            "zoo",
            networks=len(places),
            parameters=self.parameters,
            **_scores(test),
            iou=iou,
            distance=distance,
            diversity_distance=apart,
            validation_score=float(validation.scores.mean()),
            validation_iou=chosen,
        )
        return Entry(row, test)

    def _distances(self, made: Made) -> tuple[float | None, float | None]:
        """To the zoo and among themselves; none for networks of another size."""
        if self.zoo is None or not self._is_of_the_zoo(made.networks):
            return None, None
        some = {name: tensor[: self.compared] for name, tensor in made.networks.items()}
        return self._measured(Places.of(some, self.zoo.places.spec)) if self.compared else (None, None)

    def _measured(self, some: Places, *, leave_one_out: bool = False) -> tuple[float | None, float | None]:
        assert self.zoo is not None
        if not len(some):
            return None, None
        apart = median_distance(some, generator=self.generator, pairs=PAIRS) if len(some) > 1 else None
        return float(nearest_distance(some, self.zoo.places, leave_one_out=leave_one_out).median()), apart

    def _some(self, places: Places) -> Places:
        return Places({name: tensor[: self.compared] for name, tensor in places.tensors.items()}, places.spec)

    def _is_of_the_zoo(self, networks: Stacked) -> bool:
        assert self.zoo is not None
        known = self.zoo.places.tensors
        weights = [name for name in networks if name in known]
        return bool(weights) and all(networks[name].shape[1:] == known[name].shape[1:] for name in weights)


def _iou(judged: Judged, zoo: Judged | None, *, leave_one_out: bool = False) -> float | None:
    if judged.wrong is None or zoo is None or zoo.wrong is None:
        return None
    return float(nearest_iou(judged.wrong, zoo.wrong, leave_one_out).mean())


def _scores(judged: Judged) -> dict[str, Any]:
    scores, several = judged.scores, len(judged.scores) > 1
    return {
        "score": float(scores.mean()),
        "score_std": float(scores.std()) if several else None,
        "score_max": float(scores.max()),
        "ensemble": judged.ensemble,
        "diversity_iou": median_iou(judged.wrong) if several and judged.wrong is not None else None,
        "calibration": None if judged.calibration is None else float(judged.calibration.mean()),
    }


__all__ = ["Bench", "Clock", "Entry", "Made", "Row", "timed"]
