"""That layers which respect permutations predict generalisation better than readers which do not."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, above, claim
from weightspace.experiments.perceptron_zoo import boosted, perceptrons, tau
from weightspace.metanets.heads import kendall


@claim(
    "equivariant-layers",
    statement="Permutation-equivariant layers on weights predict generalisation better than a plain map of the weights and than their statistics.",
    source="Zhou et al., Permutation Equivariant Neural Functionals, arXiv:2302.14040, abstract; Navon et al., arXiv:2301.12780",
    topic="metanets",
)
def equivariant_layers(seeds: Sequence[int]) -> Iterator[Finding]:
    """Train NP layers on perceptrons of one shape; beside them the raw weights through a linear map and boosted statistics."""
    ours = [tau("nfn", seed, layer="NP") for seed in seeds]
    statistics = [kendall(boosted(perceptrons(seed), seed), perceptrons(seed)[2].targets) for seed in seeds]
    yield above("Kendall's tau of accuracies, NP layers", ours, [tau("raw", seed) for seed in seeds], "raw weights")
    yield above("Kendall's tau of accuracies, NP layers", ours, statistics, "boosted statistics")
