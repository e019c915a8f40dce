"""That leaving out the largest entries of task vectors as well as the smallest merges better than summing them whole."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, above, claim
from weightspace.experiments.merge_duels import duel


@claim(
    "breadcrumb-masks",
    statement="Task vectors without their outliers and without their small entries, layer by layer, merge better than whole ones and than those of TIES.",
    source="Davari and Belilovsky, Model breadcrumbs, arXiv:2312.06795, section 4",
    topic="merging",
    seeds=5,
    tries=("merge method breadcrumbs",),
)
def breadcrumb_masks(seeds: Sequence[int]) -> Iterator[Finding]:
    """Merge eight fine-tuned perceptrons, each method with the best of its parameters."""
    found = duel(seeds, "breadcrumbs", "task_arithmetic", "ties")
    for other in ("task_arithmetic", "ties"):
        yield above("share of single-task accuracy, breadcrumbs", found["breadcrumbs"], found[other], other.replace("_", " "))
