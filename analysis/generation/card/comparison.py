"""The comparison at equal novelty: each baseline at its best setting that is as novel as the generator, chosen on validation, judged on test."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from weightspace.analysis.generation.card.judging import Judged
from weightspace.analysis.generation.card.rows import Entry, Row

ALIKE = 0.01
"""By how much an IoU may be above another and count as equal, and the share by which a distance may be below another."""

BISECTIONS = 6

SURE = 2.0
"""Standard errors that a difference must be apart from 0."""


@dataclass(frozen=True)
class Comparison:
    """A generator beside one baseline.

    Attributes:
        row: the baseline, at the setting that was chosen.
        difference: the generator's mean score less the baseline's, on the test examples.
        error: standard error of the difference, over networks and examples.
    """

    row: Row
    difference: float
    error: float

    @property
    def winner(self) -> str | None:
        """`generator` or `baseline`; None where the difference is within its error."""
        if self.difference > SURE * self.error:
            return "generator"
        return "baseline" if self.difference < -SURE * self.error else None


def likeness(row: Row) -> float | None:
    """How like the zoo networks are on validation: their IoU, minus their distance where there is none."""
    if row.validation_iou is not None:
        return row.validation_iou
    return None if row.distance is None else -row.distance


def is_as_novel(row: Row, generator: Row) -> bool:
    """Whether networks are as novel as the generator's, but for a little."""
    found, wanted = likeness(row), likeness(generator)
    if found is None or wanted is None:
        return False
    return found <= wanted + (ALIKE if row.validation_iou is not None else ALIKE * abs(wanted))


def at_novelty(novelty: Callable[[float], float], wanted: float, values: Sequence[float]) -> float | None:
    """The least value of a setting at which something that falls with it comes down to what is wanted; None where none does.

    Args:
        novelty: of a value.
        wanted: not to be exceeded.
        values: ascending; the first at which it is reached is bisected with the one before, or with 0.
    """
    low = 0.0
    for high in values:
        if novelty(high) > wanted:
            low = high
            continue
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            low, high = (low, middle) if novelty(middle) <= wanted else (middle, high)
        return high
    return None


def of_one_size(generator: Entry, entries: Sequence[Entry]) -> list[Entry]:
    """The rivals whose networks have as many parameters as those of the generator: others are not what it makes."""
    return [entry for entry in entries if entry.is_rival and entry.row.parameters == generator.row.parameters]


def sized(row: Row, generator: Row) -> str:
    """Of how many parameters networks are, where a generator's are of others."""
    differs = row.parameters is not None and generator.parameters is not None and row.parameters != generator.parameters
    return f", of {row.parameters:,} parameters instead of {generator.parameters:,}" if differs else ""


def compare(generator: Entry, rivals: Sequence[Entry]) -> tuple[Comparison, ...]:
    """Each method that is as novel as the generator at some setting, at the one that is best on validation; the best method first."""
    best: dict[str, Entry] = {}
    for rival in sorted(rivals, key=_validation):
        if rival.judged is not None and is_as_novel(rival.row, generator.row):
            best[rival.row.method] = rival
    return tuple(_beside(generator, rival) for rival in sorted(best.values(), key=_validation, reverse=True))


def strongest(generator: Entry, rivals: Sequence[Entry]) -> Comparison | None:
    """The baseline that is best on validation, however little new it is."""
    best = max((rival for rival in rivals if rival.judged is not None), key=_validation, default=None)
    return None if best is None else _beside(generator, best)


def _validation(entry: Entry) -> float:
    score = entry.row.validation_score
    return -math.inf if score is None or math.isnan(score) else score


def _beside(generator: Entry, rival: Entry) -> Comparison:
    assert generator.judged is not None
    assert rival.judged is not None
    return Comparison(rival.row, *difference(generator.judged, rival.judged))


def difference(a: Judged, b: Judged) -> tuple[float, float]:
    """Mean score of a less that of b, and its standard error: over the networks of each, and over examples, which are the same for both."""
    variance = sum(float(one.scores.var()) / len(one.scores) for one in (a, b) if len(one.scores) > 1)
    if a.wrong is not None and b.wrong is not None:
        paired = b.wrong.double().mean(0) - a.wrong.double().mean(0)
        variance += float(paired.var()) / len(paired) if len(paired) > 1 else 0.0
    return float(a.scores.mean() - b.scores.mean()), variance**0.5


def verdict(
    generator: Row,
    zoo: Row,
    comparisons: Sequence[Comparison],
    metric: str,
    others: Sequence[Comparison] = (),
    best: Comparison | None = None,
) -> str:
    """Say in one sentence who wins.

    Args:
        generator: its row.
        zoo: that of the zoo, perhaps missing.
        comparisons: at equal novelty, the strongest baseline first.
        metric: what scores are.
        others: what the generator stands beside whatever the novelty: retrieval, training from scratch.
        best: the strongest baseline whatever the novelty.
    """
    own = f"{generator.score:.3f}" if generator.score is not None else "nothing"
    beside = "".join(f"; {_other(one, generator, own, metric)}" for one in others)
    if zoo.missing:
        alone = f"Nothing stands beside the generator's {metric} of {own}: {zoo.missing}"
        return _sentence(_other(others[0], generator, own, metric) if others else alone)
    at = f"max-IoU {generator.iou:.3f}" if generator.iou is not None else f"distance {generator.distance:.3g}" if generator.distance else ""
    if not at:
        return _sentence(
            f"The generator reaches {metric} {own}, the zoo {zoo.score:.3f}{sized(zoo, generator)}; novelty was not measured{beside}"
        )
    told = f"the zoo's own mean {zoo.score:.3f}{sized(zoo, generator)}{beside}"
    if comparisons:
        # Whoever is not beaten decides: to win, a generator is above every baseline, and not only above the one that validation prefers.
        first = next((one for winner in ("baseline", None) for one in comparisons if one.winner == winner), comparisons[0])
        who = {"generator": "The generator wins", "baseline": f"The baseline {first.row.method} wins", None: "No difference"}[first.winner]
        return _sentence(f"{who}: at equal novelty ({at}) {_reaches(first, own, metric)}, {told}")
    if best is None:
        return _sentence(f"Nothing stands beside the generator's {metric} of {own}, {told}")
    who = "The generator wins: it is newer" if best.winner == "generator" else "The generator does not win: it is newer"
    return _sentence(f"{who} ({at}) than any baseline at any setting tried, of which {_reaches(best, own, metric)}, {told}")


def _reaches(one: Comparison, own: str, metric: str) -> str:
    change = f"(difference {one.difference:+.3f} ± {one.error:.3f})"
    return f"'{one.row.name}' reaches {metric} {one.row.score:.3f}, the generator {own} {change}"


def _other(one: Comparison, generator: Row, own: str, metric: str) -> str:
    verb = {"generator": "is beaten", "baseline": "is better", None: "is as good"}[one.winner]
    reached = f"{metric} {one.row.score:.3f}{sized(one.row, generator)}"
    return f"{one.row.name} {verb} ({reached}, the generator {own}, difference {one.difference:+.3f} ± {one.error:.3f})"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


__all__ = [
    "ALIKE", "Comparison", "at_novelty", "compare", "difference", "is_as_novel", "likeness", "of_one_size", "sized", "strongest", "verdict",
]  # fmt: skip
