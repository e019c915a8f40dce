"""How often an edge is right of which each kind of evidence gives a probability, beside that probability.

Run it with `python -m tests.benchmarks.lineage_calibration FOLDER [FOLDER ...]` over zoos that `lineage_families` wrote; none of them may be
the one that the method is judged on. Two statements are judged: that a pair which was compared is of one family, by the evidence that decides
on it, and that an edge of the tree is one of the history.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.lineage_families import Truth
from tests.benchmarks.lineage_zoo import opened
from weightspace.analysis.lineage import Edge, Entry, Lineage, lineage

BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 1.0)


@dataclass(frozen=True)
class Stated:
    """A probability that was stated, on what evidence, and whether it came true."""

    evidence: str
    probability: float
    is_true: bool


def related(truth: Truth, found: Lineage) -> Iterator[Stated]:
    """For every compared pair: whether both are of one family."""
    for edge in found.pairs:
        ends = truth.members[edge.parent], truth.members[edge.child]
        yield Stated(_evidence(edge), edge.probability, bool(set(ends[0].families) & set(ends[1].families)))


def edges(truth: Truth, found: Lineage) -> Iterator[Stated]:
    """For every edge of the tree: whether the history has it, in either direction; models that compute the same are one."""
    near = {name: member.near for name, member in truth.members.items()}
    pairs = {frozenset((near[edge.parent], near[edge.child])) for edge in truth.edges}
    for edge in found.edges:
        ends = frozenset((near[edge.parent], near[edge.child]))
        yield Stated(_evidence(edge), edge.probability, len(ends) == 1 or ends in pairs)


def directions(truth: Truth, found: Lineage) -> Iterator[Stated]:
    """For every edge of the tree that the history has, with a direction: whether it is that direction, by what the edge says of it."""
    near = {name: member.near for name, member in truth.members.items()}
    pairs = {(near[edge.parent], near[edge.child]) for edge in truth.edges if edge.is_directed}
    for edge in found.edges:
        ends = near[edge.parent], near[edge.child]
        if edge.is_directed and ends[0] != ends[1] and (ends in pairs or ends[::-1] in pairs):
            yield Stated(_evidence(edge), edge.direction, ends in pairs)


STATEMENTS: dict[str, Callable[[Truth, Lineage], Iterator[Stated]]] = {
    "a compared pair is of one family": related,
    "an edge is of the history": edges,
    "the direction of an edge is right": directions,
}


def _evidence(edge: Edge) -> str:
    """What decided on an edge, and for what kind of edit."""
    return f"{edge.reasons[0].evidence} ({edge.kind})"


def expected_error(stated: Sequence[Stated]) -> float:
    """Expected calibration error (Naeini et al., AAAI 2015): mean over bins of |stated - observed|, by counts."""
    return sum(abs(low - high) * count for _, low, high, count in binned(stated)) / len(stated) if stated else 0.0


def binned(stated: Sequence[Stated]) -> Iterator[tuple[str, float, float, int]]:
    """For each bin that has any: its bounds, the mean that was stated, the share that came true, the count."""
    places = np.clip(np.digitize([one.probability for one in stated], BINS) - 1, 0, len(BINS) - 2)
    for place in range(len(BINS) - 1):
        inside = [one for one, at in zip(stated, places.tolist(), strict=True) if at == place]
        if inside:
            name = f"{BINS[place]:g} to {BINS[place + 1]:g}"
            yield name, float(np.mean([one.probability for one in inside])), float(np.mean([one.is_true for one in inside])), len(inside)


def table(stated: Sequence[Stated]) -> Iterator[str]:
    """A row for each evidence and bin, and one for all."""
    yield "| evidence | stated | mean stated | observed | count |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for name in [*sorted({one.evidence for one in stated}), "all"]:
        for bounds, said, seen, count in binned([one for one in stated if name in ("all", one.evidence)]):
            yield f"| {name} | {bounds} | {said:.3f} | {seen:.3f} | {count} |"


def _found(folders: Iterable[Path]) -> Iterator[tuple[Truth, Lineage]]:
    for folder in folders:
        truth = Truth.read(folder / "truth.json")
        entries = [Entry(name, one) for name, one in opened(folder, truth).items()]
        yield truth, lineage(entries, generator=torch.Generator().manual_seed(0))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", type=Path, nargs="+", help="zoos that lineage_families wrote")
    given = parser.parse_args()
    torch.set_num_threads(1)
    results = list(_found(given.folders))
    for name, statements in STATEMENTS.items():
        stated = [one for truth, found in results for one in statements(truth, found)]
        print(f"\n## {name}\n", *table(stated), f"\nExpected calibration error {expected_error(stated):.3f}.", sep="\n")


if __name__ == "__main__":
    main()
