"""That dropping entries with a probability that falls with their magnitude merges better than dropping all alike."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, above, claim
from weightspace.experiments.merge_duels import duel


@claim(
    "della-magnitudes",
    statement="DELLA, which keeps large entries of a task vector with a higher probability, merges better than DARE, which keeps all with the same, and than TIES.",
    source="Deep et al., DELLA-merging, arXiv:2406.11617, table 2",
    topic="merging",
    seeds=5,
    tries=("merge method della", "merge method della_linear", "merge method dare_ties", "merge method dare_linear"),
)
def della_magnitudes(seeds: Sequence[int]) -> Iterator[Finding]:
    """Merge eight fine-tuned perceptrons, with and without the election of signs, each method with the best of its parameters."""
    found = duel(seeds, "della", "dare_ties", "della_linear", "dare_linear", "ties")
    for name, other in (("della", "dare_ties"), ("della_linear", "dare_linear"), ("della", "ties")):
        yield above(f"share of single-task accuracy, {name}", found[name], found[other], other)
