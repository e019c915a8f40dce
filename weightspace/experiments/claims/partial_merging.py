"""That merging only the units that match best, and keeping the rest of both networks, merges better than matching all."""

from collections.abc import Iterator, Sequence

from weightspace.analysis.matching import match_partial
from weightspace.experiments.barriers import Bench
from weightspace.experiments.claim import Finding, above, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.merge_seeds import Weights, average
from weightspace.experiments.networks import ARCHITECTURES, mlp
from weightspace.experiments.train import train
from weightspace.task import Task

SHAPE, INPUTS, WIDTH, STEPS = "mnist1d-mlp", 40, 128, 1000
SHARES = (1.0, 0.75, 0.5)


@claim(
    "partial-merging",
    statement="Merging only the pairs of units that match well, at the price of some more width, keeps more accuracy than merging all of them.",
    source="Stoica et al., ZipIt!, arXiv:2305.03053, section 4; Nasery et al., PLeaS, arXiv:2407.02447, section 3",
    topic="matching",
    seeds=5,
)
def partial_merging(seeds: Sequence[int]) -> Iterator[Finding]:
    """Average MNIST-1D perceptrons of two seeds in a space where some pairs share a place and all other units have their own."""
    examples = mnist1d()
    bench = Bench.of(SHAPE, WIDTH, examples)
    networks = train(ARCHITECTURES[SHAPE], WIDTH, examples, [2 * seed + one for seed in seeds for one in (0, 1)], STEPS)
    found: dict[float, list[float]] = {share: [] for share in SHARES}
    for a, b in zip(networks[::2], networks[1::2], strict=True):
        for share, own in found.items():
            made = _merged(*match_partial(a, b, bench.spec, share=share).widen(a, b))
            task = Task.classification(mlp(INPUTS, len(made["fc1.bias"])), examples.test, examples.test_classes, batch_size=1000)
            own.append(task.evaluate(made)["accuracy"])
    for share in SHARES[1:]:
        yield above(f"accuracy of the average, {share:.0%} of the pairs merged", found[share], found[1.0], "all merged")


def _merged(a: Weights, b: Weights) -> Weights:
    """The mean of what units say, where those without a partner still hear all that they heard: a mean would halve it."""
    made = average([a, b])
    for name in ("fc1", "fc2", "fc3"):
        alone = [~one[f"{name}.weight"].any(1) for one in (a, b)]
        doubled = 1.0 + (alone[0] ^ alone[1]).float()
        made[f"{name}.weight"] = made[f"{name}.weight"] * doubled[:, None]
        made[f"{name}.bias"] = made[f"{name}.bias"] * doubled
    return made
