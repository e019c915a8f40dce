"""That a network can be trained in a small random subspace of its weights, whose size hardly grows with the network."""

from collections.abc import Iterator, Sequence

import torch

from weightspace.analysis.functional import intrinsic_dimension
from weightspace.experiments.claim import Finding, at_most, claim
from weightspace.experiments.claims.terminal_collapse import digits
from weightspace.experiments.networks import mlp
from weightspace.experiments.train import train
from weightspace.task import Task

INPUTS, WIDTHS, STEPS = 64, (32, 128), 400
SMALL, CONSTANT = 0.05, 2.0


@claim(
    "intrinsic-dimension",
    statement="Ninety percent of a network's accuracy is reached in a random subspace of far fewer dimensions than it has weights, and of about as many for a wider one.",
    source="Li et al., Measuring the intrinsic dimension of objective landscapes, arXiv:1804.08838, sections 2 and 3",
    topic="weights",
    tries=("measure intrinsic_dimension",),
)
def intrinsic_size(seeds: Sequence[int]) -> Iterator[Finding]:
    """Search for the dimension with perceptrons on handwritten digits, of two widths; accuracy is on test examples."""
    examples = digits()
    found: dict[int, list[float]] = {}
    shares: dict[int, list[float]] = {}
    for width in WIDTHS:
        module = mlp(INPUTS, width).eval()
        tasks = [
            Task.classification(module, inputs, classes, batch_size=125)
            for inputs, classes in ((examples.train, examples.train_classes), (examples.test, examples.test_classes))
        ]
        for seed, weights in zip(seeds, train(lambda width: mlp(INPUTS, width), width, examples, seeds, STEPS), strict=True):
            generator = torch.Generator().manual_seed(seed)
            made = intrinsic_dimension(tasks[1], weights, train=tasks[0], smallest=8, largest=2048, epochs=10, generator=generator)
            dimension = float(made.dimension or made.parameters)
            found.setdefault(width, []).append(dimension)
            shares.setdefault(width, []).append(dimension / made.parameters)
    narrow, wide = WIDTHS
    for width, own in shares.items():
        yield at_most(f"dimension that suffices over the number of weights, width {width}", own, SMALL)
    ratios = [one / other for one, other in zip(found[wide], found[narrow], strict=True)]
    counts = [found[width][0] / shares[width][0] for width in WIDTHS]
    growth = [counts[1] / counts[0]] * len(ratios)
    yield at_most(
        "dimension that suffices at the larger width over that at the smaller",
        ratios,
        CONSTANT,
        baseline=growth,
        against="of the numbers of weights",
    )
