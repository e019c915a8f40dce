"""That weighing parameters by their Fisher information merges better than the plain average."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, above, claim
from weightspace.experiments.merge_duels import AVERAGE, duel


@claim(
    "fisher-average",
    statement="Averages weighted by each network's diagonal Fisher information are better than plain ones.",
    source="Matena and Raffel, Merging models with Fisher-weighted averaging, arXiv:2111.09832, section 4",
    topic="merging",
    seeds=5,
    tries=("merge method fisher",),
)
def fisher_average(seeds: Sequence[int]) -> Iterator[Finding]:
    """Merge eight fine-tuned perceptrons; the Fisher is of 200 training examples a task, with sampled classes."""
    found = duel(seeds, "fisher", AVERAGE)
    yield above("share of single-task accuracy, fisher", found["fisher"], found[AVERAGE], AVERAGE)
