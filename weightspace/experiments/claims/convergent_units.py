"""That networks of other seeds learn many of the same units, more of them in early layers."""

from collections.abc import Iterator, Sequence

import torch

from weightspace.analysis.functional import convergence
from weightspace.experiments.claim import Finding, above, at_least, claim
from weightspace.experiments.data import mnist1d
from weightspace.experiments.networks import ARCHITECTURES
from weightspace.experiments.train import train
from weightspace.task import Task

SHAPE, WIDTH, STEPS = "mnist1d-mlp", 128, 1000
LAYERS = ("fc1", "fc2", "fc3")


@claim(
    "convergent-units",
    statement="Networks of different seeds converge to partly the same units: paired one to one many correlate strongly, the more so in early layers, and one-to-one pairs "
    "are not all the best ones.",
    source="Li et al., Convergent learning: do different neural networks learn the same representations?, arXiv:1511.07543, section 3",
    topic="weights",
    seeds=5,
    tries=("measure convergent_learning",),
)
def convergent_units(seeds: Sequence[int]) -> Iterator[Finding]:
    """Pair the units of MNIST-1D perceptrons by their correlations; untrained networks are the null."""
    examples = mnist1d()
    module = ARCHITECTURES[SHAPE](WIDTH).eval()
    task = Task.classification(module, examples.test, examples.test_classes, batch_size=5000)
    numbers = [2 * seed + one for seed in seeds for one in (0, 1)]
    trained = train(ARCHITECTURES[SHAPE], WIDTH, examples, numbers, STEPS)
    blank = []
    for number in numbers:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(number)
            blank.append(ARCHITECTURES[SHAPE](WIDTH).state_dict())
    found, null = (
        [
            {name: one.values() for name, one in convergence(task, a, b, layers=LAYERS).items()}
            for a, b in zip(own[::2], own[1::2], strict=True)
        ]
        for own in (trained, blank)
    )
    first, last = ([one[name]["one_to_one"] for one in found] for name in (LAYERS[0], LAYERS[-1]))
    yield at_least("correlation of units paired one to one, first layer", first, 0.5)
    yield above("the same", first, [one[LAYERS[0]]["one_to_one"] for one in null], "untrained networks")
    yield above("the same", first, last, "the last hidden layer")
    best = [one[LAYERS[0]]["semi_matching"] for one in found]
    yield above("correlation of units with their best partner, first layer", best, first, "paired one to one")
