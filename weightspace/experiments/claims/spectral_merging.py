"""That merges of orthogonalised task singular vectors, and of one with all its singular values alike, beat sums of task vectors."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, above, claim
from weightspace.experiments.merge_duels import duel


@claim(
    "spectral-merging",
    statement="Merges that work on singular vectors, TSV-M and Iso-C, leave less interference and are better than task arithmetic and TIES.",
    source="Gargiulo et al., Task singular vectors, arXiv:2412.00081, table 1; Marczak et al., No task left behind, arXiv:2502.04959, table 1",
    topic="merging",
    seeds=5,
    tries=("merge method tsv", "merge method iso_c"),
)
def spectral_merging(seeds: Sequence[int]) -> Iterator[Finding]:
    """Merge eight fine-tuned perceptrons, each method with the best of its parameters."""
    found = duel(seeds, "tsv", "iso_c", "task_arithmetic", "ties")
    for name in ("tsv", "iso_c"):
        for other in ("task_arithmetic", "ties"):
            yield above(f"share of single-task accuracy, {name}", found[name], found[other], other.replace("_", " "))
