"""Warning signs in the history of a run: the steps and layers at which something broke, or may have.

What is not a plain fact (a NaN, a layer of zeros) is told by comparing a step with the other steps of the same layer, in logarithms: the
median of the others is what is usual, their median absolute deviation how much that varies.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

from weightspace.analysis.history.moment import Moment

Severity = Literal["broken", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("broken", "warning", "note")
"""The worst first."""

JUMP = 6.0
"""Robust z-score from which a step is unlike the others."""
FLOOR = math.log(1.25)
"""Least deviation that is taken for usual, so that a layer which hardly moves is not watched too closely."""
LEAST, LEAST_OF_VECTORS = 3.0, 8.0
"""Factors below which no jump of a norm is reported, however even the other steps are; biases start at zero and grow fast."""
REWRITTEN = 1.0
"""Relative change from which a layer is another one: as far from where it was as that is from zero."""
RANK_LOSS = 0.5
"""Share of the effective rank that is left after a sudden loss, at most."""
BLOWN_UP = 100.0
"""Factor by which a running variance has to rise."""
SILENCED = 0.25
"""Share of a layer's units that fall silent together."""


@dataclass(frozen=True)
class Event:
    """Something that happened to one layer between a checkpoint and the one before.

    Attributes:
        severity: `broken`: what cannot be meant; `warning`: what may be a fault; `note`: what is worth knowing.
        step: of the checkpoint in which it is first seen.
        layer: name of the tensor; `*` for all.
        reason: what, in words.
        value: the number behind it.
    """

    severity: Severity
    step: int
    layer: str
    reason: str
    value: float | int | None = None


def events(steps: Sequence[int], series: Mapping[str, Sequence[Moment]]) -> tuple[Event, ...]:
    """Find what broke in a run, by step, the worst first.

    Args:
        steps: of all checkpoints.
        series: the moments of each layer, in order.
    """
    found: list[Event] = []
    still = _still_steps(series)
    for name, moments in series.items():
        for sign in (_not_finite, _zeroed, _dead, _silenced, _norm_jumps, _rank_losses, _rewritten, _variances):
            found += sign(moments)
        found += _frozen(moments, still)
        found += _gone(name, {one.step for one in moments}, steps)
    found += [Event("warning", step, "*", "no layer changed since the checkpoint before", 0.0) for step in sorted(still)]
    place = {name: at for at, name in enumerate(series)}
    return tuple(sorted(_merged(found), key=lambda one: (one.step, SEVERITIES.index(one.severity), place.get(one.layer, -1))))


def _merged(found: Sequence[Event]) -> list[Event]:
    """Leave out what a worse event at the same place explains: a layer of zeros has lost its rank, too."""
    broken = {(one.step, one.layer) for one in found if one.severity == "broken"}
    return [one for one in found if one.severity == "broken" or (one.step, one.layer) not in broken]


def _not_finite(series: Sequence[Moment]) -> Iterator[Event]:
    """The first of every row of checkpoints with NaN or infinities."""
    was = 0
    for one in series:
        if one.not_finite and not was:
            yield Event("broken", one.step, one.layer, f"{one.not_finite:,} of its elements are NaN or infinite", one.not_finite)
        was = one.not_finite


def _zeroed(series: Sequence[Moment]) -> Iterator[Event]:
    """A tensor that was not zero and is."""
    for before, one in itertools.pairwise(series):
        if one.norm == 0 and before.norm != 0:
            yield Event("broken", one.step, one.layer, "all elements are zero", 0.0)


def _dead(series: Sequence[Moment]) -> Iterator[Event]:
    """Rows of a matrix, or entries of a norm's gain, that became zero."""
    for before, one in itertools.pairwise(series):
        if one.dead > before.dead and one.norm:
            what = "entries of the gain" if one.part == "gain" else "rows"
            yield Event("warning", one.step, one.layer, f"{one.dead} of {one.units} {what} are zero, before {before.dead}", one.dead)


def _silenced(series: Sequence[Moment]) -> Iterator[Event]:
    """Many units of a layer that cannot fire any more."""
    for before, one in itertools.pairwise(series):
        if one.silent - before.silent >= max(2, SILENCED * one.units):
            reason = (
                f"{one.silent} of {one.units} units have no positive weight and bias, before {before.silent}: behind a ReLU they never fire"
            )
            yield Event("warning", one.step, one.layer, reason, one.silent)


def _norm_jumps(series: Sequence[Moment]) -> Iterator[Event]:
    least = LEAST_OF_VECTORS if series[0].part == "vector" else LEAST
    if series[0].norm == 0:  # biases that start at zero: by how much they grow at first tells nothing
        series = series[2:]
    for at, factor, z in _jumps(series, lambda one: one.norm, least):
        how = "grew" if factor > 1 else "fell"
        yield Event("warning", series[at].step, series[at].layer, f"norm {how} {_times(factor)} at once (z = {z:.0f})", factor)


def _rank_losses(series: Sequence[Moment]) -> Iterator[Event]:
    def spare(one: Moment) -> float | None:
        return one.effective_rank if one.units > 1 else None

    for at, factor, _ in _jumps(series, spare, 1 / RANK_LOSS):
        if factor < 1:
            now = series[at].effective_rank or 0.0
            reason = f"effective rank fell from {now / factor:.1f} to {now:.1f} at once"
            yield Event("warning", series[at].step, series[at].layer, reason, now)


def _variances(series: Sequence[Moment]) -> Iterator[Event]:
    """A running variance below zero, or one that blew up after it had left the ones that it starts with."""
    if series[0].part != "variance":
        return
    for one in series:
        if one.smallest is not None and one.smallest < 0:
            yield Event("broken", one.step, one.layer, f"a variance of {one.smallest:.3g}", one.smallest)
            break
    started = [one for one in series if not (one.smallest == one.largest == 1)]
    for before, one in itertools.pairwise(started):
        if before.largest and one.largest and one.largest > BLOWN_UP * before.largest:
            yield Event("warning", one.step, one.layer, f"largest variance grew {_times(one.largest / before.largest)}", one.largest)


def _rewritten(series: Sequence[Moment]) -> Iterator[Event]:
    """A matrix that changes as if it were drawn anew, where it otherwise moves little; a change back is not told twice.

    How far training moves a matrix at first, from where it was drawn, tells nothing.
    """
    if series[0].part != "matrix":
        return
    told = 0
    for at in range(2, len(series)):
        one, change = series[at], series[at].change
        others = [math.log(other.change) for k, other in enumerate(series) if other.change and abs(k - at) > 1]
        earlier, middle = series[at - 2].norm, series[at - 1].norm
        is_return = told == at - 1 or (earlier is not None and middle is not None and middle * LEAST < earlier)
        if change is None or change < REWRITTEN or len(others) < 2 or is_return:
            continue
        if (math.log(change) - median(others)) / _spread(others) > JUMP:
            told = at
            yield Event(
                "warning", one.step, one.layer, f"changed by {change:.0%} of its norm, usually by {math.exp(median(others)):.0%}", change
            )


def _frozen(series: Sequence[Moment], still: set[int]) -> Iterator[Event]:
    """A layer that stopped changing, or never did, while others went on."""
    known = [one for one in series if one.change is not None and one.step not in still]
    if known and all(one.change == 0 for one in known):
        yield Event("note", known[0].step, known[0].layer, "never changes", 0.0)
        return
    for before, one in zip([None, *known], known, strict=False):
        if one.change == 0 and (before is None or before.change != 0):
            yield Event("note", one.step, one.layer, "has not changed since the checkpoint before", 0.0)


def _still_steps(series: Mapping[str, Sequence[Moment]]) -> set[int]:
    """Steps at which nothing changed at all."""
    changes: dict[int, list[float]] = {}
    for one in (one for moments in series.values() for one in moments):
        if one.change is not None:
            changes.setdefault(one.step, []).append(one.change)
    return {step for step, at_step in changes.items() if not any(at_step)}


def _gone(name: str, there: set[int], steps: Sequence[int]) -> Iterator[Event]:
    """A layer that is not in every checkpoint: when it comes and goes."""
    for before, step in itertools.pairwise(steps):
        if (step in there) != (before in there):
            yield Event("warning", step, name, "is there, and was not before" if step in there else "is not there any more")


def _jumps(series: Sequence[Moment], value: Callable[[Moment], float | None], least: float) -> Iterator[tuple[int, float, float]]:
    """Places where a positive quantity jumps, the factor, and the robust z-score of its logarithm's step among the other steps.

    A step is compared with the last one that did not jump, so that a single bad checkpoint is told once, not again on the way back.
    """
    logs = {at: math.log(found) for at, one in enumerate(series) if (found := value(one)) and found > 0}
    places = list(logs)
    if len(places) < 2:
        return
    steps = {at: logs[at] - logs[before] for before, at in itertools.pairwise(places)}
    sound = places[0]
    for number, at in enumerate(places[1:], 1):
        near = {at, *places[number + 1 : number + 2]}  # the way back belongs to the jump
        others = [step for place, step in steps.items() if place not in near]
        usual = median(others) if others else 0.0
        spread = _spread(others)
        z = (steps[at] - usual) / spread
        from_sound = logs[at] - logs[sound]
        if abs(z) > JUMP and abs(steps[at]) >= math.log(least) and abs(from_sound - usual) > JUMP * spread:
            yield at, math.exp(steps[at]), z
        else:
            sound = at


def _spread(values: Sequence[float]) -> float:
    """1.4826 times the median absolute deviation, which is the standard deviation of normal values, but no less than the floor."""
    if not values:
        return FLOOR
    middle = median(values)
    return max(FLOOR, 1.4826 * median(abs(value - middle) for value in values))


def _times(factor: float) -> str:
    return f"{factor:.3g}-fold" if factor > 1 else f"to 1/{1 / factor:.3g}"


def rows(found: Sequence[Event]) -> list[dict[str, Any]]:
    """Events as rows of a table."""
    return [{"severity": one.severity, "step": one.step, "layer": one.layer, "reason": one.reason, "value": one.value} for one in found]
