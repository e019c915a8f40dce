"""A published claim, tried: its findings, each against a bar that was fixed beforehand, and the verdict that follows from them.

A claim is one function that runs the small experiment over some seeds, the null or the baseline beside it, and returns findings:

    @claim("relu-scaling", statement="...", source="...", topic="symmetry")
    def relu_scaling(seeds: Sequence[int]) -> Iterator[Finding]:
        yield at_most("relative change of the outputs", [...], 1e-6)

The function says what is measured and where the bar lies; whether it was reached is never its own to say.
"""

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from weightspace.experiments.tables import Estimate
from weightspace.registry import Registry

Verdict = Literal["held", "held in part", "did not hold"]
Experiment = Callable[[Sequence[int]], Iterable["Finding"]]
"""Runs with each of some seeds, on one thread; what it prints goes nowhere."""

SEEDS = 3
TOPICS = ("symmetry", "matching", "connectivity", "merging", "weights", "signatures", "metanets", "generation", "stitching", "catalog")


@dataclass(frozen=True)
class Finding:
    """One quantity of a claim, and whether it is as the claim has it.

    Attributes:
        quantity: what was measured, with its unit.
        ours: over the seeds.
        baseline: the same of the null or the baseline, over the same seeds.
        against: what the baseline is.
        bar: what was asked, in words.
        held: whether it was reached.
    """

    quantity: str
    ours: Estimate
    baseline: Estimate | None
    against: str
    bar: str
    held: bool


@dataclass(frozen=True)
class Claim:
    """A published claim that can be tried here.

    Attributes:
        name: in the ledger.
        statement: what is claimed, in one sentence.
        source: paper, arXiv id, and where in it.
        topic: one of `TOPICS`.
        run: the experiment.
        seeds: how many by default.
        needs: real data or checkpoints that it is tried on, named where there is none in the package.
        tries: methods of the registries that it tells something of, such as `merge method ties`.
    """

    name: str
    statement: str
    source: str
    topic: str
    run: Experiment
    seeds: int = SEEDS
    needs: str = ""
    tries: tuple[str, ...] = ()


claims: Registry[Claim] = Registry("claim", "weightspace.experiments.claims")
"""All claims, by name."""


def claim(
    name: str, *, statement: str, source: str, topic: str, seeds: int = SEEDS, needs: str = "", tries: Sequence[str] = ()
) -> Callable[[Experiment], Experiment]:
    """Register the function that tries a claim; see `Claim`."""
    if topic not in TOPICS:
        raise ValueError(f"claim '{name}' has topic '{topic}', expected one of {', '.join(TOPICS)}")

    def registered(run: Experiment) -> Experiment:
        claims.add(name, Claim(name, statement, source, topic, run, seeds, needs, tuple(tries)))
        return run

    return registered


def at_most(quantity: str, values: Sequence[float], bar: float, *, baseline: Sequence[float] = (), against: str = "") -> Finding:
    """A mean that is to be a bar or less; a baseline stands beside it for comparison alone."""
    return _judged(operator.le, f"at most {bar:g}", quantity, values, bar, baseline, against)


def at_least(quantity: str, values: Sequence[float], bar: float, *, baseline: Sequence[float] = (), against: str = "") -> Finding:
    """A mean that is to be a bar or more; a baseline stands beside it for comparison alone."""
    return _judged(operator.ge, f"at least {bar:g}", quantity, values, bar, baseline, against)


def below(quantity: str, values: Sequence[float], baseline: Sequence[float], against: str) -> Finding:
    """Values that are to be smaller than a baseline's: the 95 % interval of the differences, seed by seed, is to lie below 0."""
    difference = Estimate.of([one - other for one, other in zip(values, baseline, strict=True)])
    held = difference.mean + difference.half < 0
    return Finding(quantity, Estimate.of(values), Estimate.of(baseline), against, f"below {against}", held)


def above(quantity: str, values: Sequence[float], baseline: Sequence[float], against: str) -> Finding:
    """Values that are to be larger than a baseline's: the 95 % interval of the differences, seed by seed, is to lie above 0."""
    difference = Estimate.of([one - other for one, other in zip(values, baseline, strict=True)])
    held = difference.mean - difference.half > 0
    return Finding(quantity, Estimate.of(values), Estimate.of(baseline), against, f"above {against}", held)


def verdict(findings: Sequence[Finding]) -> Verdict:
    """Sum findings up."""
    held = sum(finding.held for finding in findings)
    return "did not hold" if not held else "held" if held == len(findings) else "held in part"


def _judged(
    reached: Callable[[float, float], bool],
    said: str,
    quantity: str,
    values: Sequence[float],
    bar: float,
    baseline: Sequence[float],
    against: str,
) -> Finding:
    ours = Estimate.of(values)
    return Finding(quantity, ours, Estimate.of(baseline) if baseline else None, against, said, reached(ours.mean, bar))
