"""That adding task vectors to a base gives one network that does all the tasks better than the base."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from weightspace.analysis.merging.method import methods
from weightspace.experiments.claim import Finding, above, at_least, claim
from weightspace.experiments.merge_duels import benches, duel
from weightspace.experiments.task_merging import merged

PAIRS = 12
PAPER_PAIR, STRENGTHS = 0.9, (0.3, 0.5, 0.7, 1.0)


@claim(
    "task-addition",
    statement="The sum of the task vectors of two tasks makes a network that keeps most of the accuracy of both networks, and that of eight is better than the base.",
    source="Ilharco et al., Editing models with task arithmetic, arXiv:2212.04089, section 4 and figure 3",
    topic="merging",
    seeds=5,
    tries=("merge method task_arithmetic",),
)
def task_addition(seeds: Sequence[int]) -> Iterator[Finding]:
    """Add the vectors of pairs and of all eight tasks, the strength tuned on held-out examples."""
    pairs, bases = [], []
    for bench, singles, _ in benches(tuple(seeds)):
        before = bench.judge(bench.family.base, bench.split.test)
        kept, at_base = [], []
        for pair in list(combinations(range(len(bench.family.tuned)), 2))[:PAIRS]:
            models = [bench.family.tuned[at] for at in pair]
            sums = [merged(methods["task_arithmetic"], models, bench.family.base, {"weight": 1.0, "lambda": own}) for own in STRENGTHS]
            tuned = [sum(bench.judge(one, bench.split.tune)[at] / singles["tune"][at] for at in pair) for one in sums]
            best = bench.judge(sums[tuned.index(max(tuned))], bench.split.test)
            kept.append(sum(best[at] / singles["test"][at] for at in pair) / 2)
            at_base.append(sum(before[at] / singles["test"][at] for at in pair) / 2)
        pairs.append(sum(kept) / len(kept))
        bases.append(sum(at_base) / len(at_base))
    yield at_least("share of single-task accuracy, sums of two", pairs, PAPER_PAIR, baseline=bases, against="the base")
    yield above("the same", pairs, bases, "the base")
    found = duel(seeds, "task_arithmetic", "base")
    yield above("share of single-task accuracy, the sum of eight", found["task_arithmetic"], found["base"], "the base")
