"""That networks matched pair by pair do not come back to themselves around a cycle, that a shared space mends it, and merges better."""

from collections.abc import Iterator, Sequence

from weightspace.analysis.matching import cycle_error, match_many, match_pairs
from weightspace.experiments.barriers import Bench
from weightspace.experiments.claim import Finding, above, at_least, at_most, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.merge_seeds import average
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train
from weightspace.symmetry import act

SHAPE, WIDTH, STEPS, SIZE = "mnist1d-mlp", 64, 800, 5


@claim(
    "cycle-consistency",
    statement="Matched pair by pair, networks are not consistent around cycles; matched all at once through a universe they are, and their average is better.",
    source="Crisostomi et al., C2M3: cycle-consistent multi-model merging, arXiv:2405.17897, sections 3 and 4",
    topic="matching",
)
def cycle_consistency(seeds: Sequence[int]) -> Iterator[Finding]:
    """Align five MNIST-1D perceptrons a seed by each way, and average them."""
    examples = mnist1d()
    bench = Bench.of(SHAPE, WIDTH, examples)
    networks = train(ARCHITECTURES[SHAPE], WIDTH, examples, [SIZE * seed + one for seed in seeds for one in range(SIZE)], STEPS)
    errors, shared = [], []
    accuracies: dict[str, list[float]] = {}
    for at in range(0, len(networks), SIZE):
        models = networks[at : at + SIZE]
        pairs = match_pairs(models, bench.spec)
        errors.append(cycle_error({pair: one.element for pair, one in pairs.items()}))
        for how in ("universe", "merge", "reference"):
            made = match_many(models, bench.spec, how, reference=0)
            moved = [dict(act(element, model)) for element, model in zip(made.elements, models, strict=True)]
            accuracies.setdefault(how, []).append(bench.test.evaluate(average(moved))["accuracy"])
            if how == "universe":
                shared.append(made.cycle_error)
        accuracies.setdefault("none", []).append(bench.test.evaluate(average(models))["accuracy"])
    yield at_least("share of units that a walk around three networks moves, matched in pairs", errors, 0.1)
    yield at_most("the same through a universe", shared, 0.0, baseline=errors, against="in pairs")
    yield above("accuracy of the average of five, through a universe", accuracies["universe"], accuracies["none"], "unmatched")
    yield above("the same", accuracies["universe"], accuracies["reference"], "each matched to the first")
    yield above("the same", accuracies["universe"], accuracies["merge"], "MergeMany of Git Re-Basin")
