"""That blocks of several networks make one that is better than the best of them."""

from collections.abc import Iterator, Sequence
from functools import cache

from weightspace.experiments.claim import Finding, above, claim
from weightspace.experiments.reassembly import Bench, Judged, alone, initialised

NETWORKS, BUDGET, STEPS = 10, 0.5, 200
ARCHITECTURES = (("mlp", 8, 3), ("mlp", 16, 4), ("cnn", 16, 4), ("cnn", 32, 4))


@claim(
    "reassembled-networks",
    statement="Networks reassembled from blocks of several trained ones under a budget and fine-tuned are better than the best single network within it.",
    source="Yang et al., Deep Model Reassembly, arXiv:2210.17409, abstract",
    topic="stitching",
)
def reassembled_networks(seeds: Sequence[int]) -> Iterator[Finding]:
    """Ten perceptrons and convolutional networks of MNIST-1D, half the FLOPs of the largest; the best one within it as it is and trained as long."""
    ours, single, tuned, scratch, chance = (list[float]() for _ in range(5))
    bench = _bench()
    for seed in seeds:
        judged = Judged(bench, seed, bench.zoo(seed, NETWORKS))
        limit = judged.budget(BUDGET)
        best = alone(judged.chains[judged.best(limit)[0]])
        _, made = judged.made(limit)
        _, drawn = judged.made(limit, selection="chance")
        single.append(bench.accuracy(best))
        fresh = initialised(made, seed)
        for values, one in ((ours, made), (tuned, best), (scratch, fresh), (chance, drawn)):
            values.append(bench.accuracy(bench.tuned(one, seed, steps=STEPS)))
    yield above("accuracy, reassembled and fine-tuned", ours, single, "the best single network as it is")
    yield above("accuracy, reassembled and fine-tuned", ours, tuned, "the best single network, trained as many steps")
    yield above("accuracy, reassembled and fine-tuned", ours, scratch, "the same shape from scratch")
    yield above("accuracy, reassembled and fine-tuned", ours, chance, "blocks drawn by chance")


@cache
def _bench() -> Bench:
    return Bench(ARCHITECTURES)
