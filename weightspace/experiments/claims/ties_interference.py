"""That trimming task vectors and electing their signs merges better than averages and sums do."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, above, claim
from weightspace.experiments.merge_duels import AVERAGE, duel


@claim(
    "ties-interference",
    statement="TIES, which trims task vectors and elects their signs, merges networks of several tasks better than averaging and than task arithmetic.",
    source="Yadav et al., TIES-merging: resolving interference when merging models, arXiv:2306.01708, table 1",
    topic="merging",
    seeds=5,
    tries=("merge method ties", "merge method task_arithmetic"),
)
def ties_interference(seeds: Sequence[int]) -> Iterator[Finding]:
    """Merge eight fine-tuned perceptrons, each method with the best of its parameters."""
    found = duel(seeds, "ties", AVERAGE, "task_arithmetic")
    for other in (AVERAGE, "task_arithmetic"):
        yield above("share of single-task accuracy, ties", found["ties"], found[other], other.replace("_", " "))
