"""That on zoos of one architecture a statistics baseline comes close to every metanet."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, at_most, claim
from weightspace.experiments.perceptron_zoo import boosted, perceptrons, tau
from weightspace.metanets.heads import kendall


@claim(
    "one-shape-statistics",
    statement="On zoos of one architecture statistics of the weights come within .02 of Kendall's tau of metanets that read every weight.",
    source="Unterthiner et al., arXiv:2002.11448; read off the tables of Kofinas et al., arXiv:2403.12143, and Kalogeropoulos et al., arXiv:2406.10685",
    topic="metanets",
)
def one_shape_statistics(seeds: Sequence[int]) -> Iterator[Finding]:
    """Train deep sets and NP layers on perceptrons of one shape, and compare each with boosted statistics of the same networks."""
    statistics = [kendall(boosted(perceptrons(seed), seed), perceptrons(seed)[2].targets) for seed in seeds]
    for said, ours in (
        ("deep sets", [tau("deepsets", seed) for seed in seeds]),
        ("NP layers", [tau("nfn", seed, layer="NP") for seed in seeds]),
    ):
        lead = [one - other for one, other in zip(ours, statistics, strict=True)]
        yield at_most(f"lead of {said} over boosted statistics, Kendall's tau", lead, 0.02)
