"""The evaluation card: a generator beside the zoo that it learned from and the baselines that embarrass it, compared at equal novelty."""

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from weightspace.analysis.generation.card.comparison import Comparison, compare, difference, of_one_size, strongest, verdict
from weightspace.analysis.generation.card.evaluation import Evaluation
from weightspace.analysis.generation.card.rows import Clock, Entry, Row
from weightspace.analysis.generation.chance import chance
from weightspace.analysis.generation.drawing import expect_types
from weightspace.analysis.generation.generator import Progress, WeightGenerator, Wish
from weightspace.analysis.generation.material import Material
from weightspace.metanets.batch import WeightBatch
from weightspace.task import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BESIDE = ("retrieval", "trained from scratch")
"""What a generator stands beside whatever the novelty."""


@dataclass(frozen=True)
class Card:
    """What a generator is worth.

    Attributes:
        generator: its kind.
        recipe: how it was made.
        metric: what scores are: `accuracy`, the task's first metric, or `-loss`; more is better.
        parameters: of a network that it makes.
        weights: numbers that the generator itself keeps.
        fitting_seconds: that fitting it took, where it was timed.
        rows: the generator first, then the zoo, then every baseline at every setting; those that cannot be had say why.
        comparisons: at equal novelty and size, the strongest baseline first.
        beside: what it stands beside whatever the novelty: the strongest baseline of its size, retrieval, training from scratch.
        verdict: who wins, in a sentence.
    """

    generator: str
    recipe: Mapping[str, Any]
    metric: str
    parameters: int
    weights: int
    fitting_seconds: float | None
    rows: tuple[Row, ...]
    comparisons: tuple[Comparison, ...]
    beside: tuple[Comparison, ...]
    verdict: str

    def row(self, method: str) -> Row:
        """The first row of a method.

        Raises:
            KeyError: there is none.
        """
        found = next((row for row in self.rows if row.method == method), None)
        if found is None:
            raise KeyError(method)
        return found

    def __repr__(self) -> str:
        return f"<Card of {self.generator}: {self.verdict}>"

    def _repr_html_(self) -> str:
        """The verdict and one row a method for notebooks; `page` has all of it."""
        from weightspace import html

        given = [dataclasses.asdict(row) for row in self.rows]
        used = [key for key in given[0] if any(row[key] is not None for row in given)] if given else []
        return html.page(f"{self.generator}: {self.verdict}", html.rows(given, columns=used))

    def values(self) -> dict[str, float]:
        """The numbers for a catalog: the generator's row, the zoo's, and the difference to the best baseline at equal novelty."""
        made = {"parameters": float(self.parameters), "weights": float(self.weights)}
        if self.fitting_seconds is not None:
            made["fitting_seconds"] = self.fitting_seconds
        for prefix, row in (("", self.rows[0]), ("zoo_", self.row("zoo"))):
            numbers = dataclasses.asdict(row)
            made |= {f"{prefix}{key}": float(numbers[key]) for key in _NUMBERS if numbers[key] is not None}
        if self.comparisons:
            best = self.comparisons[0]
            made |= {"difference_at_equal_novelty": best.difference, "difference_error": best.error}
        return {key: value for key, value in made.items() if math.isfinite(value)}

    def plot(self) -> "Figure":
        """Draw scores against novelty, of the generator, the zoo and the baselines.

        Raises:
            GenerationError: novelty was not measured.
        """
        from weightspace.analysis.generation.card.plot import drawn

        return drawn(self)

    def to_json(self) -> str:
        """All of it as strict JSON; what is not finite is null."""
        told = _plain(dataclasses.asdict(self))
        for row, own in zip(told["rows"], self.rows, strict=True):
            row["name"] = own.name
        return json.dumps(told, indent=1, allow_nan=False)


_NUMBERS = (
    "networks",
    "score",
    "score_std",
    "score_max",
    "ensemble",
    "iou",
    "distance",
    "diversity_iou",
    "diversity_distance",
    "calibration",
    "milliseconds",
)


def evaluation_card(
    fitted: WeightGenerator,
    material: Material,
    *,
    validation: Task,
    test: Task,
    count: int = 50,
    wish: Wish | None = None,
    zoo: WeightBatch | None = None,
    compared: int = 16,
    generator: torch.Generator | None = None,
    fitting_seconds: float | None = None,
    progress: Progress = lambda done, total: None,
    clock: Clock = time.perf_counter,
) -> Card:
    """Judge a generator beside its zoo and the baselines that embarrass it.

    Baselines see what the generator saw: where it was fitted on aligned networks, they get the same alignment. Their settings (how
    much noise, a mean of how many) are chosen on `validation` alone, as the most accurate ones that are as novel as the generator; both
    are then judged on `test`. Novelty is the IoU of wrong predictions with the nearest network of the zoo, on tasks without classes
    the distance to it. At another size than the zoo's, only what has that size stands against it; all else is labelled with its own.

    Args:
        fitted: by `fit`.
        material: what it was fitted on; its tasks train the networks that are trained from scratch.
        validation: examples to choose settings by, with the module of the zoo's size.
        test: examples to judge by, likewise.
        count: networks of each row.
        wish: what is asked for. Of a size of its own, its module runs the networks (else the tasks' module at that size), and zoo networks
            pruned to it and ones trained at it stand beside. Without one, conditions are drawn from the material.
        zoo: checkpoints to compare with, where the material has none.
        compared: networks of each row whose distances are taken, which is what takes the time; 0 leaves distances out.
        generator: source of chance; see `chance`.
        fitting_seconds: that fitting took, to be put on the card.
        progress: is told how many rows are done, of how many at least.
        clock: tells seconds.

    Raises:
        GenerationError: networks cannot be drawn as asked, or are not of the zoo's tensors.
        TaskError: networks do not fit the tasks.
    """
    expect_types(fitted, count, wish)
    tasks, wish, generator = (validation, test), wish or Wish(), chance(generator)
    evaluation = Evaluation.of(fitted, material, tasks, count, wish, zoo, compared, generator, clock)
    entries: list[Entry] = []
    parts = evaluation.parts()
    for done, part in enumerate(parts, 1):
        entries += part()
        progress(done, len(parts))
    own, rows = entries[0], tuple(entry.row for entry in entries)
    assert own.judged is not None
    metric = own.judged.metric
    rivals = of_one_size(own, entries)
    comparisons, best = compare(own, rivals), strongest(own, rivals)
    beside = tuple(
        Comparison(entry.row, *difference(own.judged, entry.judged))
        for entry in entries
        if entry.judged is not None and entry.row.method in BESIDE
    )
    return Card(
        generator=fitted.family.name,
        recipe=dict(fitted.recipe),
        metric=metric,
        parameters=evaluation.target.numel,
        weights=sum(tensor.numel() for tensor in fitted.state_dict().values()),
        fitting_seconds=fitting_seconds,
        rows=rows,
        comparisons=comparisons,
        beside=beside if best is None else (best, *beside),
        verdict=verdict(rows[0], rows[1], comparisons, metric, beside, best),
    )


def _plain(value: Any) -> Any:
    """The same as JSON has it; numbers that are not finite become None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


__all__ = ["Card", "evaluation_card"]
