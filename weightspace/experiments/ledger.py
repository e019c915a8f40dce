"""The ledger: claims as they were tried, a row a finding, and the table that the documentation shows of them."""

import contextlib
import io
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import torch

from weightspace import __version__
from weightspace.errors import WeightSpaceError
from weightspace.experiments.claim import Claim, claims, verdict
from weightspace.experiments.tables import Estimate, markdown

Rows = Sequence[Mapping[str, Any]]
"""Rows of the catalog's table `claims`."""


@dataclass(frozen=True)
class Wanted:
    """A claim to try, by name, so that it crosses to another process.

    Attributes:
        name: of the claim.
        seeds: how many; None for as many as the claim asks for.
    """

    name: str
    seeds: int | None = None


@dataclass(frozen=True)
class Tried:
    """What came of trying a claim: rows for the catalog, or why there are none."""

    name: str
    rows: tuple[dict[str, Any], ...] = ()
    refused: str = ""


def tried(wanted: Wanted) -> Tried:
    """Run one claim's experiment on one thread; what it prints goes nowhere.

    Example:
        >>> tried(Wanted("relu-scaling", seeds=2)).rows[0]["verdict"]
        'held'
    """
    one = claims[wanted.name]
    seeds = wanted.seeds or one.seeds
    threads, started = torch.get_num_threads(), time.monotonic()
    torch.set_num_threads(1)
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            rows = tuple(_rows(one, seeds))
    except WeightSpaceError as error:
        return Tried(one.name, refused=str(error))
    finally:
        torch.set_num_threads(threads)
    took, now = round(time.monotonic() - started, 1), datetime.now(UTC).replace(tzinfo=None)
    return Tried(one.name, tuple({**row, "seconds": took, "tried": now} for row in rows))


def _rows(one: Claim, seeds: int) -> Iterator[dict[str, Any]]:
    findings = list(one.run(range(seeds)))
    for at, found in enumerate(findings):
        baseline = found.baseline or Estimate(math.nan, math.nan)
        yield {
            "claim": one.name, "statement": one.statement, "source": one.source, "topic": one.topic, "verdict": verdict(findings),
            "position": at, "quantity": found.quantity, "value": _number(found.ours.mean), "interval": _number(found.ours.half),
            "baseline": _number(baseline.mean), "baseline_interval": _number(baseline.half), "against": found.against or None,
            "bar": found.bar, "held": found.held, "seeds": seeds, "version": __version__,
        }  # fmt: skip


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def summary(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row a claim: all that are registered, with what came of those that were tried."""
    known = {name: list(own) for name, own in groupby(rows, lambda row: row["claim"])}
    for one in claims.values():
        own = known.get(one.name, [])
        first: Mapping[str, Any] = own[0] if own else {}
        yield {
            "claim": one.name,
            "verdict": first.get("verdict", "not tried"),
            "held": f"{sum(bool(row['held']) for row in own)}/{len(own)}" if own else "",
            "statement": one.statement,
            "source": one.source,
            "topic": one.topic,
            "seconds": first.get("seconds"),
        }


def page(rows: Rows) -> str:
    """The ledger as a page of the documentation: what is claimed by whom, what was found, and the verdict."""
    known = {name: list(own) for name, own in groupby(rows, lambda row: row["claim"])}
    counts = {said: sum(own[0]["verdict"] == said for own in known.values()) for said in ("held", "held in part", "did not hold")}
    parts = [_HEAD.format(tried=len(known), **{said.replace(" ", "_"): count for said, count in counts.items()})]
    for topic, group in groupby(sorted(claims.values(), key=lambda one: one.topic), lambda one: one.topic):
        parts.append(f"## {topic.capitalize()}\n")
        for one in group:
            own = known.get(one.name, [])
            said = own[0]["verdict"] if own else "not tried" + (f" (needs {one.needs})" if one.needs else "")
            parts.append(f"**{one.name}**: {said}. {one.statement} ({one.source})\n")
            if own:
                parts.append(markdown([_shown(row) for row in own]) + "\n")
                parts.append(f"{own[0]['seeds']} seeds, {own[0]['seconds']:.0f} s.\n")
    return "\n".join(parts)


_HEAD = """# Claims of the literature, tried here

`weightspace reproduce NAME` runs one of these small experiments and writes its findings into the catalog's table `claims`; this page is
what `weightspace reproduce --all -o docs/claims.md` writes. Bars are fixed in the code beforehand: `below` and `above` a baseline ask that the
95 % interval of the differences, seed by seed, leaves zero out; `at most` and `at least` ask it of the mean. `±` is half of the 95 %
interval (Student's t). They are small versions, minutes on one core, and neither prove nor refute what was found at scale.

{tried} tried: {held} held, {held_in_part} held in part, {did_not_hold} did not hold.
"""


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        "finding": row["quantity"],
        "here": _estimate(row["value"], row["interval"]),
        "baseline": f"{_estimate(row['baseline'], row['baseline_interval'])} ({row['against']})" if row["baseline"] is not None else "",
        "asked": row["bar"],
        "held": "yes" if row["held"] else "**no**",
    }


def _estimate(mean: float | None, half: float | None) -> str:
    """Three digits that count of a mean, and as many places of its interval."""
    if mean is None:
        return "-"
    places = 3 if mean == 0 else max(0, 2 - math.floor(math.log10(abs(mean))))
    if places > 5:
        return f"{mean:.1e}" + (f" ± {half:.0e}" if half is not None else "")
    return f"{mean:.{places}f}" + (f" ± {half:.{places}f}" if half is not None else "")
