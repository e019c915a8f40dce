"""Merge methods against each other on eight tasks of MNIST-1D, each with parameters tuned on examples that are held out for that."""

from collections.abc import Mapping, Sequence
from functools import cache

from weightspace.experiments.data import mnist1d
from weightspace.experiments.task_merging import NORMALISED, Bench, Candidate, candidates, outcome
from weightspace.experiments.tasks import Split, families

SHAPE, WIDTH, STEPS = "mnist1d-mlp", 64, 300
AVERAGE = "uniform average"
Scores = dict[str, list[float]]


def duel(seeds: Sequence[int], *names: str) -> Scores:
    """What merges keep of the accuracy of the tasks' own networks, on test examples and over all tasks, by name: one value a seed.

    Args:
        seeds: of the base and all that comes from it.
        names: merge methods as `task_merging` calls them, `AVERAGE` and `base` among them.
    """
    found: Scores = {name: [] for name in names}
    for bench, singles, known in benches(tuple(seeds)):
        for name, own in found.items():
            own.append(outcome(bench, known[name], singles)[1][NORMALISED])
    return found


@cache
def benches(seeds: tuple[int, ...]) -> Sequence[tuple[Bench, Mapping[str, list[float]], Mapping[str, Candidate]]]:
    """For each seed what is merged, the accuracy of each task's own network on both sets of examples, and the ways to merge."""
    split, made = Split.of(mnist1d()), []
    for family in families(SHAPE, WIDTH, seeds, STEPS):
        bench = Bench(SHAPE, WIDTH, family, split)
        parts = {"tune": split.tune, "test": split.test}
        singles = {part: [row[at] for at, row in enumerate(bench.single(examples))] for part, examples in parts.items()}
        made.append((bench, singles, {one.name.strip("*"): one for one in candidates(bench)}))
    return made
