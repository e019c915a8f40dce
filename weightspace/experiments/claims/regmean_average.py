"""That solving for each layer's outputs on the tasks' own inputs merges better than averages, plain or by Fisher information."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, above, claim
from weightspace.experiments.merge_duels import AVERAGE, duel


@claim(
    "regmean-average",
    statement="RegMean, which solves a least squares problem on each layer's inputs, merges better than plain and than Fisher-weighted averages.",
    source="Jin et al., Dataless knowledge fusion by merging weights of language models, arXiv:2212.09849, section 5",
    topic="merging",
    seeds=5,
    tries=("merge method regmean", "merge method fisher"),
)
def regmean_average(seeds: Sequence[int]) -> Iterator[Finding]:
    """Merge eight fine-tuned perceptrons; Gram matrices are of 1,000 training examples a task."""
    found = duel(seeds, "regmean", AVERAGE, "fisher")
    for other in (AVERAGE, "fisher"):
        yield above("share of single-task accuracy, regmean", found["regmean"], found[other], other)
