"""That a hypernetwork with task embeddings does not forget where its outputs for earlier tasks are held."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, above, at_least, at_most, claim
from weightspace.experiments.continual import in_turn


@claim(
    "hypernetwork-forgetting",
    statement="A chunked, task-conditioned hypernetwork learns tasks one after another with next to no forgetting once its outputs for earlier ones are regularised.",
    source="von Oswald et al., Continual Learning with Hypernetworks, arXiv:1906.00695, abstract and section 2",
    topic="generation",
)
def hypernetwork_forgetting(seeds: Sequence[int]) -> Iterator[Finding]:
    """Learn five pairs of classes of MNIST-1D in turn, with the regulariser at .1 and without."""
    held, free = ([in_turn("chunked", way, seed) for seed in seeds] for way in ("beta 0.1", "beta 0"))
    lost, other = ([one["forgetting"] for one in way] for way in (held, free))
    yield at_most("forgetting with the regulariser, points", lost, 1.0, baseline=other, against="without")
    yield at_least("forgetting without it, points", other, 10.0)
    kept = [one["after the last"] for one in held]
    yield above("accuracy on all pairs after the last", kept, [one["after the last"] for one in free], "without the regulariser")
