"""That features go from general to specific with depth, and that parts fit each other as they were trained."""

from collections.abc import Iterator, Sequence

import torch

from weightspace.analysis.stitching import Chain
from weightspace.analysis.stitching.transfer import TransferGrid
from weightspace.analysis.stitching.transfer import transfer_grid as grid
from weightspace.experiments.claim import Finding, above, below, claim
from weightspace.experiments.transfer import RATES, drawn, examples_of, half, task_of, trained

DATA, STEPS, KINDS = "mnist1d", 300, ("BnB", "AnB", "AnB+", "RnB")


@claim(
    "transfer-grid",
    statement="Transferred features get specific with depth, parts that learned together fall off when split, and transferred parts that are tuned generalise better.",
    source="Yosinski et al., How Transferable Are Features in Deep Neural Networks?, arXiv:1411.1792, section 4.1 and figure 2",
    topic="stitching",
)
def transfer_grid(seeds: Sequence[int]) -> Iterator[Finding]:
    """Perceptrons of five hidden layers, two random halves of the classes of MNIST-1D; cuts behind the first, the third and the fifth."""
    grids = [_grid(seed) for seed in seeds]
    first, middle, last = grids[0].cuts
    specific = {cut: [one.scores("AnB")[cut] - one.scores("BnB")[cut] for one in grids] for cut in (first, last)}
    yield below("accuracy of AnB less BnB at the last cut", specific[last], specific[first], "at the first cut")
    yield below(
        "accuracy of BnB at the middle cut",
        [one.scores("BnB")[middle] for one in grids],
        [one.scores("BnB")[first] for one in grids],
        "at the first cut",
    )
    tuned = [sum(one.scores("AnB+").values()) / 3 for one in grids]
    yield above("accuracy of AnB+, the mean over cuts", tuned, [one.scratch for one in grids], "from scratch")
    frozen, random = ([one.scores(kind)[first] for one in grids] for kind in ("AnB", "RnB"))
    yield above("accuracy of AnB at the first cut", frozen, random, "random frozen parts")


def _grid(seed: int) -> TransferGrid:
    data = examples_of(DATA)
    order = torch.randperm(data.classes, generator=torch.Generator().manual_seed(seed)).tolist()
    source, target = half(data, order[: data.classes // 2]), half(data, order[data.classes // 2 :])
    chains = []
    for at, one in enumerate((source, target)):
        module = trained(drawn("mlp", DATA, 100 * seed + at), one.train, STEPS, RATES[DATA], 100 * seed + at)
        chains.append(Chain.of(module, data.train[:2]))
    train, test = task_of(chains[1], target.train), task_of(chains[1], target.test, 1000)
    generator = torch.Generator().manual_seed(100 * seed + 2)
    return grid(chains[0], chains[1], train, test, cuts=(0, 2, 4), kinds=KINDS, steps=STEPS, learning_rate=RATES[DATA], generator=generator)
