"""That averages on a sphere, which keep the norm that plain averages lose, merge better."""

from collections.abc import Iterator, Sequence

from weightspace.experiments.claim import Finding, above, below, claim
from weightspace.experiments.merge_duels import AVERAGE, benches, duel
from weightspace.experiments.tasks import Weights

SLERP = "slerp, one after another"


@claim(
    "spherical-merging",
    statement="Spherical means keep the norm of the weights, which plain averages lose, and merge better than those.",
    source="Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985, as used for models in arXiv:2403.13257; Karcher mean arXiv:2603.04972",
    topic="merging",
    seeds=5,
    tries=("merge method slerp", "merge method karcher"),
)
def spherical_merging(seeds: Sequence[int]) -> Iterator[Finding]:
    """Merge eight fine-tuned perceptrons on the sphere and on the line."""
    found = duel(seeds, SLERP, "karcher", AVERAGE)
    norms: dict[str, list[float]] = {"average": [], "networks": []}
    for bench, _, known in benches(tuple(seeds)):
        sizes = [_norm(dict(one)) for one in bench.family.tuned]
        norms["average"].append(_norm(known[AVERAGE].merge({})))
        norms["networks"].append(sum(sizes) / len(sizes))
    yield below("norm of the plain average", norms["average"], norms["networks"], "of the merged networks, on average")
    for name in (SLERP, "karcher"):
        yield above(f"share of single-task accuracy, {name}", found[name], found[AVERAGE], AVERAGE)


def _norm(weights: Weights) -> float:
    return float(sum(float(tensor.square().sum()) for tensor in weights.values()) ** 0.5)
